"""The loop of a daemon, which may do I/O: events in, effects out, timers, clocks, the muscles, the
disk, sockets of discovery."""
