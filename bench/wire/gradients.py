"""Sizes of real pseudo-gradients: a small Llama is trained by four peers that exchange over the integer wire; the size of
each kind of blob against the order-0 entropy of each tensor, at several rounds."""

import numpy as np

from bench.wire.bound import choices, conditional_entropy, entropy
from bench.wire.record import Row, told
from bench.wire.training import Trained, train
from duckweed.run.layout import Layout
from duckweed.wire import codec_of
from duckweed.wire.codecs import sums as updates
from duckweed.wire.codecs.integer import Codes, Integer
from duckweed.wire.codecs.sparse import Sparse
from duckweed.wire.codecs.sums import Sums

AS_IS = Integer(threshold=0.5, value=1.0)


def gradients(vocabulary: int, wire: Integer, rounds: tuple[int, ...]) -> list[Row]:
    """Train, exchange, and measure at the given rounds."""
    rows: list[Row] = []
    memory = np.zeros(0)
    for number, trained in enumerate(train(vocabulary, wire, max(rounds))):
        before, sums = memory, np.sum(trained.codes, axis=0, dtype=np.int32)
        memory = 4 * np.clip(sums, -4, 4) + (np.trunc(before / 2) if number else 0)
        if number in rounds:
            setting = {"vocabulary": vocabulary, "threshold": wire.threshold, "round": number}
            rows += [told(setting | row) for row in _blobs(trained, sums)]
            rows += [setting | row for row in _given_earlier_rounds(trained, sums, before)]
    return rows


def _blobs(trained: Trained, sums: np.ndarray) -> list[Row]:
    """Whole blobs of each kind."""
    layout, codes, x = trained
    ones = np.ones(len(layout.sizes), np.float32)
    one = codec_of(AS_IS, layout).encode(codes[0].astype(np.float32), ones).blob
    update = _update(codes, ones, layout)
    top = {k: codec_of(Sparse(keep=k), layout).encode(x, None).blob for k in (64, 256)}
    figures = {
        "contribution": (one, entropy(codes[0], layout)),
        f"update of {len(codes)}": (update, entropy(sums, layout)),
        "sparse 64": (top[64], choices(Sparse())),
        "sparse 256": (top[256], choices(Sparse(keep=256))),
    }
    return [
        _row(what, 8 * len(blob) / layout.total, bound) for what, (blob, bound) in figures.items()
    ]


def _update(codes: list[np.ndarray], ones: np.ndarray, layout: Layout) -> bytes:
    total = Sums(layout, ones, 1)
    for one in codes:
        total.add(Codes(one, ones, layout), 1)
    return updates.encode(total)


def _given_earlier_rounds(trained: Trained, sums: np.ndarray, before: np.ndarray) -> list[Row]:
    """What coding could save that knows the sums of the rounds before: an entropy, no blob."""
    layout, codes, _ = trained
    memory, rows = before.astype(np.int64), []
    for what, numbers in (("contribution", codes[0]), (f"update of {len(codes)}", sums)):
        bits = conditional_entropy(numbers, memory, layout)
        what = f"{what}, entropy given the sums of earlier rounds"
        rows.append(_row(what, bits, entropy(numbers, layout)))
    return rows


def _row(what: str, bits: float, bound: float) -> Row:
    return {"what": what, "bits": round(bits, 4), "bound": round(bound, 4)}
