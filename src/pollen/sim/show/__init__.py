"""A run for a reader: a page of text, a picture."""
