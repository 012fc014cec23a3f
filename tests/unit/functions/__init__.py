"""Functions of a program: how values travel, what is shipped, and what the other side does."""
