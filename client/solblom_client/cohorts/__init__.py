"""Who is in a round: consent joined, test patients kept apart, the record of years and its rebuilding."""
