"""What one peer does between two merges."""
