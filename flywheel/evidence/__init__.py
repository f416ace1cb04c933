"""The evidence for or against a model, as one page."""
