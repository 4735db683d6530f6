"""Where consent is read from, a file for each kind of source. They say what stands there; `consent_rules` decides."""
