"""What patients have spent: the ledger, its hash chain, its anchor, and what a study would take."""
