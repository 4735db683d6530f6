"""The secure sum: keys, shares and masks that cancel, who takes part, and how the sum of survivors is opened."""
