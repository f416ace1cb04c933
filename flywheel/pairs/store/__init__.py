"""The store: DuckDB tables of observations and pairs, touched in short transactions."""
