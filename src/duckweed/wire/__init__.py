"""What a contribution looks like in bytes."""
