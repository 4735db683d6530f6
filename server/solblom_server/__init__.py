"""The coordinator: rounds, the fold, checkpoints and the registry. It never sees a patient's row."""

__version__ = "0.1.0"
