"""Logs that can only grow: hash trees, proofs, signed checkpoints and the cosignatures of witnesses."""
