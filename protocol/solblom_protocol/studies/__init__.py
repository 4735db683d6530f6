"""What a researcher asks for: the study file, what it may not ask for, and the privacy events that follow."""
