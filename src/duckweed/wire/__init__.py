"""What a contribution looks like in bytes: codecs, error feedback, entropy coding.

numpy, and numba for the loops over all values. A model is one flat vector f32[P] with a `Layout` of its T tensors.
"""

from duckweed.wire.codec import Codec, Encoded, codec_of, codec_type, register_wire, warm_up
from duckweed.wire.feedback import carry, keep
from duckweed.wire.frame import Reader, WireError, Writer
from duckweed.wire.total import Decoded, Total

__all__ = [
    "Codec",
    "Decoded",
    "Encoded",
    "Reader",
    "Total",
    "WireError",
    "Writer",
    "carry",
    "codec_of",
    "codec_type",
    "keep",
    "register_wire",
    "warm_up",
]
