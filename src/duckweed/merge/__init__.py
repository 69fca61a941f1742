"""How contributions become the next weights."""
