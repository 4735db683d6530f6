"""The coordinator's log that hospitals witness: its entries, its proofs and what an artefact carries of it."""
