"""Pages over what the rooms produce."""
