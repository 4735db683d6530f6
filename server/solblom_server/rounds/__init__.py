"""A run, round by round: ask every hospital, collect what they answer, add it up, lose nothing."""
