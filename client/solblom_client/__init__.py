"""The hospital node: the vault, its rules and its keys. Nothing here opens a socket."""

__version__ = "0.1.0"
