"""What runs trials: processes here, machines elsewhere, and the audit of the latter."""
