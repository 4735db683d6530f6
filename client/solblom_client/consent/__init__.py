"""Who may take part: sources of consent, the rules over them, and what a withdrawal touches."""
