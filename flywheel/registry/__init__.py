"""The registry: which model is champion, how it came to be, and every champion before it."""
