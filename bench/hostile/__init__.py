"""Hostile peers against the weights: attacks on codes, rules that shall withstand them, and the table."""
