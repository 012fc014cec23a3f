"""The simulator: one seed draws a world of nodes, machines, links and faults, and replays it."""
