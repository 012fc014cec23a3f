"""``pln``: the command line. Only click and plain sockets on the way to the daemon."""
