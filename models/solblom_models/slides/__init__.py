"""Whole slides: opened, masked and cut into tiles by microns per pixel. Nothing here leaves a hospital."""
