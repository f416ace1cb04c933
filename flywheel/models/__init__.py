"""Base models: which there are, where their weights are found, how texts become vectors, and the cache of those vectors."""
