"""Machines in virtual time: clocks, disks, processes, and the queue that moves them."""
