"""Lines in: reading, checking, redacting and staging what users left behind, and the seed pairs."""
