"""A node's folder: settings, keys, the lock, joining, starting and stopping a process."""
