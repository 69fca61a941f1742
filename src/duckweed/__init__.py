"""duckweed: train language models together on computers that belong to nobody in one piece."""

__version__ = "0.1.0"
