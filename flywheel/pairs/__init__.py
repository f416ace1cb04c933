"""Pairs in: sources, validation, ingest, splits, snapshots and the DuckDB store. The only room that imports duckdb."""
