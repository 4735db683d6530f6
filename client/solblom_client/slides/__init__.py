"""From a hospital's whole slides to bags of features, by a process of its own; the vault sees the bags only."""
