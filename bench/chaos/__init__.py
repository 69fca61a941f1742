"""Storms over real runs between hosts of the laboratory: see docs/chaos.md."""
