"""Entropy coding of yes/no flags: interleaved binary rANS, many lanes to a step.

Range variant of asymmetric numeral systems (Duda, arXiv 1311.2540), interleaved as by Giesen
(arXiv 1402.3392). Flag i of a run belongs to lane ``i mod L`` and step ``i div L``, so that one
numpy operation advances L states. Flags instead of symbols from a table keep every operation
free of look-ups (a comparison and a multiplication decide a flag), and let each flag have its own
probability, in 14 bits. Integer arithmetic only: the bytes are the same on every machine.

A step takes as long for a few lanes as for hundreds, so that few lanes make a blob slow to decode. Their
number is therefore no free choice of the sender's: `least_lanes` of the model's values at least, below
which a stream is refused before anything of it is decoded.

A lane costs its final state. The states do not start empty: they start with the first raw bits
(signs and the like, which cannot be compressed), so that a lane costs about one byte, not three.
"""

from __future__ import annotations

import numpy as np

from duckweed.wire.frame import Reader, WireError, Writer

BITS = 14
ONE = 1 << BITS
MAX_LANES = 1 << 14
_LOW, _WORD = np.uint32(1 << 16), np.uint32(16)
_BITS_PER_LANE = 1600  # a lane loses about 8 bits: half a percent
_MANY_STEPS = 1 << 12  # beyond, twice the lanes: one percent, where flags say very little
_FEW_LANES = 8  # a step takes as long for eight as for one
STEPS = 3 << 10  # that a flag for each value of a model may take, however little the flags say


def least_lanes(flags: int, steps: int = STEPS) -> int:
    """The fewest lanes with which so many flags take at most about so many steps; together they cost
    little: with `STEPS` a byte for 3000 flags."""
    return min(max(1, flags // steps), MAX_LANES)


def _estimate(flags: np.ndarray, one: np.ndarray) -> float:
    """About how many bits the flags will take, from a sample of at most 2^16 of them."""
    stride = max(1, len(flags) >> 16)
    chance = one[::stride].astype(np.float64) / ONE
    chance = np.where(flags[::stride], chance, 1 - chance)
    return float(-np.log2(chance).sum()) * stride


class Encoder:
    """Collects flags and raw bits; coding runs backwards, so it happens at the end.

    steps: the most that a flag for each value of a model may take, of which the decoder knows too."""

    def __init__(self, steps: int = STEPS) -> None:
        self.steps = steps
        self.runs: list[tuple[np.ndarray, np.ndarray]] = []
        self.bits: list[np.ndarray] = []

    def put(self, flags: np.ndarray, one: np.ndarray | int) -> None:
        """Flags bool[N] with the probability of yes in units of 2^-14, uint16[N] or one for all."""
        if len(flags):
            self.runs.append((flags, np.broadcast_to(np.asarray(one, np.uint16), flags.shape)))

    def raw(self, bits: np.ndarray) -> None:
        """Bits bool[N] that are stored as they are."""
        self.bits.append(bits)

    def write(self, writer: Writer) -> None:
        """Lanes and words as counts, then states, words, and the raw bits left over."""
        size = sum(_estimate(*run) for run in self.runs)
        longest = max((len(flags) for flags, _ in self.runs), default=1)
        lanes = 1 + size // _BITS_PER_LANE
        lanes *= 1 + (longest > _MANY_STEPS * lanes)
        lanes = max(lanes, least_lanes(longest, self.steps), _FEW_LANES)
        lanes = int(min(lanes, max(1, longest >> 6), MAX_LANES))
        bits = np.concatenate(self.bits) if self.bits else np.zeros(0, np.bool_)
        raw = np.packbits(bits, bitorder="little")
        fill = np.zeros(2 * lanes, np.uint8)
        head = raw[: 2 * lanes]
        fill[: len(head)] = head
        states = fill.view("<u2").astype(np.uint32) + _LOW
        words = self._code(states)
        writer.varint(lanes)
        writer.varint(len(words))
        writer.raw(states.astype("<u4"))
        writer.raw(words.astype("<u2"))
        writer.raw(raw[2 * lanes :])

    def _code(self, states: np.ndarray) -> np.ndarray:
        lanes = len(states)
        words = np.empty(sum(len(flags) for flags, _ in self.runs), np.uint16)
        at = len(words)
        for flags, one in reversed(self.runs):
            for start in range((len(flags) - 1) // lanes * lanes, -1, -lanes):
                flag = flags[start : start + lanes]
                yes = one[start : start + lanes].astype(np.uint32)
                x = states[: len(flag)]
                part = np.where(flag, yes, np.uint32(ONE) - yes)
                full = (x >= part << np.uint32(32 - BITS)).nonzero()[0]
                if len(full):
                    high = x[full]
                    at -= len(full)
                    words[at : at + len(full)] = high.astype(np.uint16)
                    x[full] = high >> _WORD
                x += x // part * (np.uint32(ONE) - part)
                np.copyto(yes, np.uint32(0), where=flag)
                x += yes
        return words[at:]


class Decoder:
    """Reads what `Encoder.write` wrote; the caller supplies the same probabilities in order."""

    def __init__(self, reader: Reader, largest: int, steps: int = STEPS) -> None:
        """largest: the flags of the longest run, one for each value of the model, from which follows how
        many lanes there can be; steps: as in the encoder. Raises WireError."""
        lanes = reader.varint(max(_FEW_LANES, min(largest, MAX_LANES)))
        least = least_lanes(largest, steps)
        if lanes < least:
            raise WireError(
                f"coded stream of {lanes} lanes; of {largest} values it has at least {least}, since fewer "
                "are slow to decode"
            )
        count = reader.varint(reader.left // 2)
        self.reader = reader
        self.states = reader.array("<u4", lanes)
        self.words = reader.array("<u2", count)
        self.at = 0
        if (self.states < _LOW).any():
            raise WireError("coded stream starts with an impossible state")

    def take(self, count: int, one: np.ndarray | int) -> np.ndarray:
        """The next run of flags, bool[count]."""
        chances = np.broadcast_to(np.asarray(one, np.uint16), (count,))
        out = np.empty(count, np.bool_)
        states, words, at = self.states, self.words, self.at
        lanes = len(states)
        work = np.empty((3, lanes), np.uint32)
        mask, shift = np.uint32(ONE - 1), np.uint32(BITS)
        for start in range(0, count, lanes):
            flag = out[start : start + lanes]
            size = len(flag)
            x = states[:size]
            yes, high, low = work[:, :size]
            np.copyto(yes, chances[start : start + lanes])
            np.bitwise_and(x, mask, out=low)
            np.less(low, yes, out=flag)
            np.right_shift(x, shift, out=high)
            np.multiply(high, yes, out=high)
            np.add(low, high, out=low)  # the next state after a yes
            np.subtract(x, high, out=x)
            np.subtract(x, yes, out=x)  # ... and after a no
            np.copyto(x, low, where=flag)
            empty = (x < _LOW).nonzero()[0]
            if len(empty):
                end = at + len(empty)
                if end > len(words):
                    raise WireError("coded stream cut short")
                x[empty] = (x[empty] << _WORD) | words[at:end]
                at = end
        self.at = at
        return out

    def finish(self, count: int) -> np.ndarray:
        """After the last run: the ``count`` raw bits, bool[count]. Nothing may be left over."""
        if self.at != len(self.words):
            raise WireError(f"coded stream has {len(self.words) - self.at} words too many")
        if (self.states >= 2 * _LOW).any() or (self.states < _LOW).any():
            raise WireError("coded stream does not end in the state it began with: damaged")
        fill = (self.states - _LOW).astype("<u2").view(np.uint8)
        need = -(-count // 8)
        rest = self.reader.raw(max(0, need - len(fill)))
        raw = np.concatenate([fill, np.frombuffer(rest, np.uint8)])
        bits = np.unpackbits(raw[:need], count=count, bitorder="little").astype(np.bool_)
        if raw[need:].any() or (count % 8 and raw[need - 1] >> (count % 8)):
            raise WireError("padding of the raw bits is not zero: damaged")
        return bits
