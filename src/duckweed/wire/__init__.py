"""What a contribution looks like in bytes: compression, error feedback, codec.

numpy only. A model is one flat vector f32[P] with a `Layout` of its T tensors.
"""

from .contribution import Compressed, Decoded, compress, decode, max_size
from .feedback import carry, keep
from .frame import WireError
from .update import Update, decode_update, encode_update, max_update_size

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
