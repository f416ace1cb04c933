"""A corpus embedded by a model, into a generation of its own: planned, estimated, embedded in parts, finished, served."""
