"""What peers gain that train paths of a larger model instead of one dense model (docs/paths-measured.md)."""
