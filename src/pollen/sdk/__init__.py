"""The SDK: calls and control of this machine's node. Its public names are those of ``pollen``."""
