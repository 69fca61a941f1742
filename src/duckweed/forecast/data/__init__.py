"""What is known: tables of facts, and what they hold of models, chips and scores."""
