"""What a data access body allows, in signed permits and lists of those revoked."""
