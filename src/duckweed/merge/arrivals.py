"""The contributions of a round, decoded, checked and added up as they arrive: little is left to do once the last is here.

What a contribution will weigh is known only when the round closes, since it follows from the work of all. But those of
whole blocks weigh the same. Their exact sum can be multiplied by that weight, and the others added to it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from duckweed.merge.announcement import Announcement
from duckweed.merge.gram import Gram
from duckweed.wire.codec import Codec
from duckweed.wire.frame import WireError
from duckweed.wire.total import Total

Read = Callable[[str], bytes]
"""The bytes of a blob by its hash."""
Key = tuple[int, str]  # peer, hash of the blob


class Arrivals:
    """Of one round. No contribution is decoded more than twice: as it arrives, and where the sum must be formed anew."""

    def __init__(self, codec: Codec, shared: Sequence[float], gram: Gram | None = None) -> None:
        """shared: what the contributions are encoded with, [K]. gram: is told of their codes."""
        self._codec, self._shared, self._gram = codec, np.array(shared, np.float32), gram
        self._total = codec.total(self._shared) if codec.additive else None
        self._added: dict[Key, int] = {}  # what is in the total, in its order, by its weight there
        self.sound = True
        """Whether the sum is what it should be: not where adding to it has failed half way."""
        self._norms: dict[Key, float | None] = {}
        self._faults: dict[Key, str] = {}

    def early(self, said: Announcement, read: Read, tokens: int) -> None:
        """Take a contribution, what it will weigh not being known. tokens: of a whole block."""
        if self._total is not None and not self._total.exact:
            return  # its sum is formed in one order, and so at the end
        if self._taken(said) or any(said.blob == other for _, other in self._norms):
            return  # a copy will hardly count
        fit = said.tokens == tokens and not self._codec.objection(said.rms)
        self._take(said, read(said.blob), int(fit))

    def take(self, said: Announcement, read: Read, weight: int) -> None:
        """Take a contribution, unless it has been taken. weight: what it weighs if all count."""
        if not self._taken(said):
            self._take(said, read(said.blob), weight)

    def fault(self, said: Announcement) -> str:
        """Why a contribution that was taken cannot count; "" if it can."""
        return self._faults.get((said.peer, said.blob), "")

    def norm(self, said: Announcement) -> float | None:
        """Norm of one without a fault; None where codes bound it."""
        return self._norms[said.peer, said.blob]

    def total(
        self, accepted: Sequence[Announcement], weights: Sequence[int], read: Read
    ) -> Total | None:
        """The sum of those that count, in their order; None where the wire has none. What was taken is used up."""
        if self._total is None:
            return None
        wanted = {(a.peer, a.blob): weight for a, weight in zip(accepted, weights, strict=True)}
        factor = self._factor(wanted)
        if not factor:
            self._total, self._added, factor = self._codec.total(self._shared), {}, 1
        missing = [key for key in wanted if key not in self._added]
        if factor != 1:
            self._total.multiply(factor)
        for peer, blob in missing:
            self._total.add(self._codec.decode(read(blob), self._shared), wanted[peer, blob])
        place = {key: n for n, key in enumerate([*self._added, *missing])}
        order = [place[key] for key in wanted]
        if order != sorted(order):
            self._total.arrange(order)
        return self._total

    def _taken(self, said: Announcement) -> bool:
        key = said.peer, said.blob
        return key in self._norms or key in self._faults

    def _take(self, said: Announcement, blob: bytes, weight: int) -> None:
        key = said.peer, said.blob
        try:
            contribution = self._codec.decode(blob, self._shared)
        except WireError as error:
            self._faults[key] = f"cannot be decoded: {error}"
            return
        self._norms[key] = self._codec.norm(contribution)
        if self._gram:
            self._gram.add(contribution.codes)  # type: ignore[attr-defined]
        if self._total is not None and weight:
            try:
                self._total.add(contribution, weight)
            except BaseException:
                self.sound = False
                raise
            self._added[key] = weight

    def _factor(self, wanted: Mapping[Key, int]) -> int:
        """What the sum so far must be multiplied by, so that what is wanted can be added to it; 0: it is of no use."""
        assert self._total is not None
        if not self._total.exact:
            return int(list(wanted.items()) == list(self._added.items()))
        ratios = {divmod(wanted.get(key, 0), weight) for key, weight in self._added.items()}
        (factor, rest), *others = ratios or {(1, 0)}
        return 0 if rest or others else factor
