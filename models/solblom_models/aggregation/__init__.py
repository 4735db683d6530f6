"""From hospitals' updates to the released weights: numpy alone, so whoever replays runs the coordinator's own code."""
