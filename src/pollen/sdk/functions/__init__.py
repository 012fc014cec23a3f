"""Functions of a program on the mesh: what is shipped, how values travel, how they are called."""
