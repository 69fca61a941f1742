"""The live page of a run: what its folder tells, as HTML that updates itself."""
