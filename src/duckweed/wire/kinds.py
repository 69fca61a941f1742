from duckweed.run.sections import Dense, Integer, Sparse, Wire, additive

__all__ = ["Dense", "Integer", "Sparse", "Wire", "additive"]
