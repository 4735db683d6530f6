"""Slides as bags of tile features: one patient is one bag of all slides."""
