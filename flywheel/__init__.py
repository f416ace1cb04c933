"""flywheel: turn the pairs a product's users leave behind into an embedding model the team owns."""

__version__ = "0.1.0"
