"""Clusters of real daemons for tests, on loopback or in network namespaces."""

from pollen.testing.cluster import Cluster, Node, until

__all__ = ["Cluster", "Node", "until"]
