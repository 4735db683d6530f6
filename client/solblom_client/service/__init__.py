"""The node as processes: the vault cut off from every network, its socket, and the units that start it."""
