"""Who proposes changes to a recipe, and how often each proposer may."""
