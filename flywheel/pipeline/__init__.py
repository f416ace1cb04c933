"""What one turn of the wheel does, as plain functions on a `Workspace`. No Dagster, no printing, no torch at import."""
