"""duckweed: train one language model together on many computers, scattered over the internet."""

import logging

__version__ = "0.1.0"

# A library stays silent: without a handler Python prints warnings on its own.
logging.getLogger(__name__).addHandler(logging.NullHandler())
