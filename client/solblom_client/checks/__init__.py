"""`solblom node check`: is this node fit to run, and are its data fit for a study. Nothing here runs per order."""
