"""duckweed: train language models together on computers that belong to nobody in one piece."""

import logging

__version__ = "0.1.0"

# A library stays silent: without a handler Python prints warnings on its own.
logging.getLogger(__name__).addHandler(logging.NullHandler())
