"""A folder of packages for a machine without internet: what is in it, and whether it is what was signed."""
