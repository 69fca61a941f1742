"""What a contribution looks like in bytes: compression, error feedback, codec.

numpy only. A model is one flat vector f32[P] with a `Layout` of its T tensors.
"""

from duckweed.wire.contribution import Compressed, Decoded, compress, decode, max_size
from duckweed.wire.feedback import carry, keep
from duckweed.wire.frame import WireError
from duckweed.wire.update import Update, decode_update, encode_update, max_update_size

__all__ = [
    "Compressed",
    "Decoded",
    "Update",
    "WireError",
    "carry",
    "compress",
    "decode",
    "decode_update",
    "encode_update",
    "keep",
    "max_size",
    "max_update_size",
]
