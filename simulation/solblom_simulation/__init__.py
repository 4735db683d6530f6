"""A whole federation on one machine: the demo, its embedded data, and exact evaluation. Always called a simulation."""

__version__ = "0.1.0"
