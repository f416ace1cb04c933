"""Snapshots: the draw of the splits and their immutable export."""
