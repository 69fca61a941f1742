"""What a run is: specification, ledger, state on disk."""
