"""What is claimed in a run's ledger, done again and compared."""
