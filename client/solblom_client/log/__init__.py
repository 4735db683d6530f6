"""The hospital's own log of decisions: a hash tree over entries, checked, shortened, and sent to its SIEM."""
