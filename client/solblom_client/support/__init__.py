"""A file for whoever helps from outside: a fixed list of harmless facts, shown before it is written."""
