"""A person says yes: study, permit and budget are read, shown, signed and held against each order."""
