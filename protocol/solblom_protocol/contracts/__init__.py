"""What each variable of the data means: the contracts of tables, expression, phenopackets and bags."""
