"""The only impure Python: clocks, disk, sockets and the native muscles around the core."""
