"""The impure turn of a daemon: events in, effects out, timers, the disk, sockets of discovery."""
