"""The loop that improves its own recipe, and what its figures are worth."""
