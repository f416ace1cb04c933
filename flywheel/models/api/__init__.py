"""The paid embeddings API: its cached vectors, what they cost, and their exchange as a file."""
