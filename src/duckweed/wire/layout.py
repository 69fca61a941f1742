from duckweed.run.layout import Layout

__all__ = ["Layout"]
