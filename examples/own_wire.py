"""A wire of one's own in one file: one bit a value (EF-signSGD, Karimireddy et al., arXiv 1901.09847).

duckweed train --plugin examples/own_wire.py --set wire.kind=sign
python examples/own_wire.py                      prints what a contribution weighs
"""

import msgspec
import numpy as np

from duckweed.run.layout import Layout
from duckweed.run.sections import Wire, check
from duckweed.wire import Codec, Decoded, Reader, WireError, Writer, codec_of, register_wire


class Sign(
    Wire, msgspec.Struct, frozen=True, tag_field="kind", tag="sign", forbid_unknown_fields=True
):
    """Each value is sent as its sign times the mean magnitude of its tensor."""

    feedback: float = 1.0  # without it signs alone do not converge

    def __post_init__(self) -> None:
        check("wire", "feedback", self.feedback, 0, 1)


@register_wire
class SignCodec(Codec):
    section = Sign

    def write(self, writer: Writer, x: np.ndarray, shared: np.ndarray | None) -> np.ndarray:
        means = [np.abs(x[part]).mean(dtype=np.float64) for part in self.layout.slices()]
        magnitudes = np.array(means, np.float32)
        writer.raw(magnitudes.astype("<f4"))
        writer.raw(np.packbits(x < 0))
        return self._values(magnitudes, x < 0)

    def read(self, reader: Reader, shared: np.ndarray | None) -> Decoded:
        magnitudes = reader.array("<f4", len(self.layout.names))
        if not (np.isfinite(magnitudes).all() and (magnitudes >= 0).all()):
            raise WireError("a magnitude is negative or not finite")
        bits = np.unpackbits(reader.array("u1", -(-self.layout.total // 8)))
        return Decoded(self._values(magnitudes, bits[: self.layout.total] > 0))

    def max_bytes(self) -> int:
        return 4 * len(self.layout.names) + -(-self.layout.total // 8)

    def _values(self, magnitudes: np.ndarray, negative: np.ndarray) -> np.ndarray:
        values = np.repeat(magnitudes, self.layout.sizes)
        return np.negative(values, out=values, where=negative)


if __name__ == "__main__":
    layout = Layout.of({"embedding": (4096, 256), "gain": (256,)})
    gradient = np.random.default_rng(0).standard_normal(layout.total).astype(np.float32)
    blob, sent = codec_of(Sign(), layout).encode(gradient, None)
    kept = 1 - np.square(gradient - sent).sum() / np.square(gradient).sum()
    print(
        f"{8 * len(blob) / layout.total:.4f} bits a value; {kept:.0%} of the square is sent at once"
    )
