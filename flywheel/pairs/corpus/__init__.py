"""A corpus: the texts of an index, each with an id, in the files or the database where a product keeps them."""
