"""Where the frontier will be, and the race."""
