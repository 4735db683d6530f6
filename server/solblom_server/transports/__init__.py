"""How hospitals are reached: by the service or by file. Each kind is found by its name."""
