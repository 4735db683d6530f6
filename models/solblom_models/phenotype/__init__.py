"""Rare disease from phenotypic features: HPO terms, GA4GH phenopackets, public annotations."""
