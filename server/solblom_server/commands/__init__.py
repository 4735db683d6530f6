"""What researchers, operators and stewards type."""
