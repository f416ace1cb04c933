"""Base models: which there are, where their weights lie, how texts become vectors, and the cache of those vectors."""
