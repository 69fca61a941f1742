"""A data set on disk: tokens of both sides in memory-mapped files, and the order of the batches.

`duckweed.learn.data.preparation` reads a corpus once and leaves a folder; `batch` and `held_out_batches` read from it.
Which sequences a batch holds is a pure function of seed and position, so that peers that agree on
the data set need not talk about data at all.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import msgspec
import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from duckweed.learn.data import tokenizer as tokenizers
from duckweed.learn.data.permutation import derive, permute
from duckweed.learn.data.reading import DataError, reasons, told
from duckweed.learn.data.tokenizer import Tokenizer

FORMAT = 1  # of the folder
MANIFEST, TRAIN, HELD_OUT, TOKENIZER = "manifest.json", "train.bin", "held_out.bin", "tokenizer"
MARKS = ".marks"  # what a file of tokens ends with that says what they are (chat.py)


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a data set holds. Bytes are those of the UTF-8 text, end-of-document tokens excluded;
    tokens include them."""

    format: int
    hash: str  # blake3 over the documents in order: the same text gives the same hash
    tokens_hash: str  # blake3 over train.bin and held_out.bin: the same training data
    tokenizer: str  # as in the specification
    tokenizer_hash: str
    vocabulary: int
    dtype: str  # of the two files, little-endian: "uint8", "uint16" or "uint32"
    split: str  # "documents" or, where documents are too few or too uneven, "position"
    documents: int
    train_documents: int
    train_bytes: int
    train_tokens: int
    held_out_documents: int
    held_out_bytes: int
    held_out_tokens: int
    skipped: dict[str, int]  # reason -> files and documents left out (docs/data.md lists them)
    files: int = 0  # that were read
    examples: dict[str, str] = {}  # reason -> the first that was left out, and what to do about it
    limited: bool = False  # whether the limit of bytes ended the reading
    # Of conversations: tokens that the loss is taken over. Bytes are then those of their text.
    train_learnt: int = 0
    held_out_learnt: int = 0

    problems: str = ""  # of problems: where they come from
    # Of a path (routed.py): what it was given, in words, and the tokens of each window. The windows lie one
    # behind the other and share nothing; 0: running text.
    routed: str = ""
    window: int = 0

    @property
    def bytes_per_token(self) -> float:
        """Bytes of held-out text per token that the loss is taken over. Of problems what turns nats into
        bits, so that what is measured of them, a share, stays as it is."""
        if self.problems:
            return 1 / math.log(2)
        return self.held_out_bytes / max(1, self.held_out_learnt or self.held_out_tokens)

    def told(self) -> str:
        """One line of what was read and what was left out, as plain text without markup."""
        if self.problems or self.routed:
            return self.problems or self.routed
        size = self.train_bytes + self.held_out_bytes
        left_out = reasons(self.skipped, self.examples)
        return told(self.files, self.documents, size, left_out, self.limited)


@dataclass(frozen=True)
class Dataset:
    """The tokens of a prepared folder: `train` and `held_out` are read-only 1-d memory maps. `marks` of the
    two: what each token is (duckweed.learn.data.chat), uint8, where the data are conversations."""

    folder: Path
    manifest: Manifest
    train: NDArray[np.unsignedinteger]
    held_out: NDArray[np.unsignedinteger]
    marks: tuple[NDArray[np.uint8], NDArray[np.uint8]] | None = None
    window: int = 0
    """Tokens of a window where the windows lie one behind the other, as those of a path; 0: running text."""

    @classmethod
    def open(cls, folder: Path) -> "Dataset":
        """The data set in `folder`; DataError if it is none or a file has the wrong size."""
        try:
            manifest = msgspec.json.decode((folder / MANIFEST).read_bytes(), type=Manifest)
            if manifest.format != FORMAT:
                raise DataError(f"format {manifest.format}; this version reads {FORMAT}")
            train = _mapped(folder / TRAIN, manifest.train_tokens, manifest.dtype)
            held_out = _mapped(folder / HELD_OUT, manifest.held_out_tokens, manifest.dtype)
            marks = None
            if manifest.train_learnt:
                marks = (
                    _mapped(folder / (TRAIN + MARKS), manifest.train_tokens, "uint8"),
                    _mapped(folder / (HELD_OUT + MARKS), manifest.held_out_tokens, "uint8"),
                )
        except (OSError, ValueError, TypeError) as error:  # msgspec's and DataError are ValueErrors
            raise DataError(
                f"data set {folder} is damaged: {error}; delete the folder and prepare it again"
            ) from error
        return cls(folder, manifest, train, held_out, marks, manifest.window)

    def verify(self) -> None:
        """Reads both files whole; DataError if a token differs from when they were written."""
        if tokens_hash(self.folder) != self.manifest.tokens_hash:
            raise DataError(
                f"data set {self.folder} was altered: its tokens do not match its manifest; "
                "delete the folder and prepare it again"
            )

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer that made the tokens, read from the folder."""
        return tokenizers.load(self.folder / TOKENIZER)


def tokens_hash(folder: Path) -> str:
    """blake3 (hex) over the sizes and contents of the two token files of `folder`, and of their marks."""
    digest = blake3()
    names = [TRAIN, HELD_OUT, TRAIN + MARKS, HELD_OUT + MARKS]
    for name in names if (folder / names[-1]).is_file() else names[:2]:
        digest.update((folder / name).stat().st_size.to_bytes(8, "little"))
        digest.update_mmap(folder / name)
    return digest.hexdigest()


def _mapped(path: Path, tokens: int, dtype: str) -> NDArray[np.unsignedinteger]:
    if dtype not in ("uint8", "uint16", "uint32"):
        raise DataError(f"{path.name} of unknown type {dtype}")
    kind = np.dtype(dtype).newbyteorder("<")
    size = path.stat().st_size
    if size != tokens * kind.itemsize:
        raise DataError(f"{path.name} has {size} bytes instead of {tokens * kind.itemsize}")
    if not tokens:
        return np.empty(0, kind)  # an empty file cannot be mapped
    return np.memmap(path, dtype=kind, mode="r")


def sequences(dataset: Dataset, length: int) -> int:
    """How many training windows of length + 1 tokens there are, one every `length` tokens.

    Neighbours share one token: the last target of one is the first input of the next. Those of a path
    share none.
    """
    return _count(dataset, dataset.train, length)


def _count(dataset: Dataset, tokens: NDArray[np.unsignedinteger], length: int) -> int:
    if not dataset.window:
        return max(0, (len(tokens) - 1) // length)
    return len(tokens) // _stride(dataset, length)


def _stride(dataset: Dataset, length: int) -> int:
    """Tokens from the beginning of a window to that of the next. Raises DataError."""
    if dataset.window and dataset.window != length + 1:
        raise DataError(
            f"data set {dataset.folder}: was routed in sequences of {dataset.window - 1} tokens, and the run's "
            f"have {length}; delete the folder and prepare it again"
        )
    return dataset.window or length


def check_size(dataset: Dataset, length: int, needed: int) -> None:
    """DataError unless there are `needed` training windows and one held-out window of `length`."""
    found = sequences(dataset, length)
    if found < needed:
        raise DataError(
            f"data: {found} sequences of {length} tokens, but {needed} are needed at once "
            f"({len(dataset.train):,} training tokens in all); give more text, or lower the batch "
            "size, the number of peers or the sequence length"
        )
    held_out_windows(dataset, length)


def position(block: int, step: int, steps: int, batch: int) -> int:
    """Where the batch of step `step` of block `block` starts in the endless stream of windows."""
    return (block * steps + step) * batch


def batch(
    dataset: Dataset, seed: int, block: int, step: int, steps: int, batch: int, length: int
) -> NDArray[np.int64]:
    """The tokens of one inner step, int64[batch, length + 1]: inputs [:, :-1], targets [:, 1:].

    Blocks are numbered over the whole run, each of `steps` batches, and no two of them share a
    window within an epoch. A pure function of its arguments and the tokens. Each epoch uses every
    window once, in an order of its own. Raises DataError if there is no window at all.
    """
    windows = sequences(dataset, length)
    if not windows:
        check_size(dataset, length, 1)
    chosen = order(windows, seed, block, step, steps, batch)
    return windows_of(dataset, chosen, length)


def order(
    windows: int, seed: int, block: int, step: int, steps: int, batch: int
) -> NDArray[np.int64]:
    """Which of `windows` windows the batch of a step holds, int64[batch]. Each epoch has all of them once,
    in an order of its own."""
    start = position(block, step, steps, batch)
    places = np.arange(start, start + batch, dtype=np.int64)
    chosen = np.empty(batch, dtype=np.int64)
    for epoch in range(start // windows, (start + batch - 1) // windows + 1):
        inside = places // windows == epoch
        chosen[inside] = permute(derive(seed, epoch), places[inside] % windows, windows)
    return chosen


def spread(windows: int, count: int, batch: int) -> Iterator[NDArray[np.int64]]:
    """`count` of `windows` windows, evenly spread and always the same, `batch` at a time."""
    chosen = np.arange(count, dtype=np.int64) * windows // count
    for first in range(0, count, batch):
        yield chosen[first : first + batch]


def held_out_windows(dataset: Dataset, length: int) -> int:
    """How many held-out windows there are; DataError if there is none."""
    windows = _count(dataset, dataset.held_out, length)
    if windows < 1:
        raise DataError(
            f"data: {len(dataset.held_out):,} held-out tokens are fewer than one sequence of "
            f"{length + 1}; give more text, raise held_out, or lower the sequence length"
        )
    return windows


def held_out_batches(
    dataset: Dataset, length: int, limit_tokens: int | None = None, batch: int = 16
) -> Iterator[NDArray[np.int64]]:
    """Held-out windows, int64[at most `batch`, length + 1], evenly spread and always the same.

    About `limit_tokens` targets in all (at least one window); None: every window once.
    """
    windows = held_out_windows(dataset, length)
    count = windows
    if limit_tokens is not None:
        count = min(windows, max(1, limit_tokens // length))
    for chosen in spread(windows, count, batch):
        yield windows_of(dataset, chosen, length, held_out=True)


def windows_of(
    dataset: Dataset, chosen: NDArray[np.int64], length: int, held_out: bool = False
) -> NDArray[np.int64]:
    """The windows of these numbers of one side, int64[n, length + 1]."""
    tokens = dataset.held_out if held_out else dataset.train
    return tokens[chosen[:, None] * _stride(dataset, length) + np.arange(length + 1)].astype(
        np.int64
    )
