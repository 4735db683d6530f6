"""Keys on disk, the public side of a participant, and fingerprints that two people compare."""
