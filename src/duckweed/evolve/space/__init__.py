"""What may be varied: the registry of switches, recipes over it, and what is planted under seal."""
