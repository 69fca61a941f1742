"""What the planner is given: configurations of models, crowds, requests, tables, assumptions."""
