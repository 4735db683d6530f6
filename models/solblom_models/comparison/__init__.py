"""Two models on the same input: what they agree on, what they gain or lose, and how they came about."""
