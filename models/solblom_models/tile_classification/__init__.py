"""Tiles with a label each, of patients who are the privacy unit."""
