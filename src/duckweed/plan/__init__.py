"""What a swarm can train."""
