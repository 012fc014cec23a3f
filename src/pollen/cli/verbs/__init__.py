"""A verb a file: the file's name is the verb, its first line stands in the overview of ``pln``."""
