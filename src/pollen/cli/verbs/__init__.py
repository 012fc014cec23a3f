"""A verb a file: its name is the verb, with `_` for `-`; its first line stands in the overview."""
