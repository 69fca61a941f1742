"""A data set on disk: tokens of both sides in memory-mapped files, and the order of the batches.

`prepare` reads a corpus once and leaves a folder; `batch` and `held_out_batches` read from it.
Which sequences a batch holds is a pure function of seed and position, so that peers that agree on
the data set need not talk about data at all.
"""

import math
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from duckweed.learn.data import tokenizer as tokenizers
from duckweed.learn.data.chat import LEARNT, ChatForm, Template
from duckweed.learn.data.corpus import HF_LIMIT, Report, Spool
from duckweed.learn.data.files import files, kind
from duckweed.learn.data.permutation import derive, permute
from duckweed.learn.data.reading import DataError, Reading, reasons, told
from duckweed.learn.data.tokenizer import Tokenizer
from duckweed.run.folder import private
from duckweed.run.lock import alone
from duckweed.run.sections import DataSpec

FORMAT = 1  # of the folder
RULES = 3  # by which files become documents, and these tokens; with another number, data is prepared anew
MANIFEST, TRAIN, HELD_OUT, TOKENIZER = "manifest.json", "train.bin", "held_out.bin", "tokenizer"
MARKS = ".marks"  # what a file of tokens ends with that says what they are (chat.py)
CHUNK = 1 << 20  # bytes of text that are tokenised at a time


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


def prepare(
    spec: DataSpec,
    base: Path,
    cache: Path,
    report: Report | None = None,
    form: ChatForm | None = None,
) -> Dataset:
    """The data set of `spec`, read from a folder below `cache` or made there.

    Relative paths in `spec` are relative to folder `base`. The folder is used again as long as
    the specification and the files' names, sizes and times of change are the same. Any number of
    processes may call this at once: one works, the others wait. The same text gives the same
    tokens and the same `manifest.hash` on every machine. Raises DataError for whatever is wrong
    with the data, and when the disk has too little room. form: of conversations; None: of text.
    """
    key = cache_key(spec, base, form.facts if form else [])
    told = report or (lambda what, done: None)
    return cached(key, cache, lambda part: _write(spec, base, part, told, form))


def cached(key: str, cache: Path, write: Callable[[Path], None]) -> Dataset:
    """The data set of that key in the cache; `write` fills a folder with it where it is not there. Raises
    DataError."""
    folder, part = cache / key, cache / f"{key}.part"
    private(cache)  # text and tokens are their owner's alone
    with alone(cache / f"{key}.lock"):
        if folder.exists():
            try:
                return Dataset.open(folder)
            except DataError:  # it is only a cache
                shutil.rmtree(folder)
        shutil.rmtree(part, ignore_errors=True)  # left by a process that was killed
        part.mkdir(mode=0o700)
        try:
            write(part)
            part.rename(folder)
        except OSError as error:
            raise DataError(f"data: {cache} cannot be written ({error}); free some room") from error
        finally:
            shutil.rmtree(part, ignore_errors=True)
        return Dataset.open(folder)


def _write(spec: DataSpec, base: Path, part: Path, report: Report, form: ChatForm | None) -> None:
    """Fills the folder `part`: text to a spool, the spool to tokens, the manifest last."""
    _check_room(part, 2 * _expected_bytes(spec, base))
    spool = Spool(part / "text")
    spool.fill(spec, base, report, form.of if form else None)
    by_position = spool.uneven(spec.held_out)
    _check_room(part, spool.bytes)

    def sides() -> Iterator[tuple[bool, str]]:
        if not by_position:
            return spool.by_document()
        return spool.by_row(spec.held_out) if form else spool.by_position(spec.held_out)

    size = tokenizers.bpe_size(spec.tokenizer)
    if size:
        seen = (text for held, text in sides() if not held)
        texts = (form.texts(text) for text in seen) if form else seen
        tokenizer = tokenizers.train_bpe(texts, size)
    else:
        tokenizer = tokenizers.load(spec.tokenizer, base)
    if form:
        tokenizer.give_template(Template(tokenizer).text)
    tokenizer.save(part / TOKENIZER)
    if form:
        train, held_out = _conversations(sides(), tokenizer, part, report, form, spool.reading)
    else:
        train, held_out = _tokenise(sides(), tokenizer, part, report)
    spool.path.unlink()
    manifest = Manifest(
        format=FORMAT,
        hash=spool.hash.hexdigest(),
        tokens_hash=tokens_hash(part),
        tokenizer=spec.tokenizer,
        tokenizer_hash=tokenizer.hash,
        vocabulary=tokenizer.size,
        dtype=tokenizer.dtype.name,
        split="position" if by_position else "documents",
        documents=len(spool.lengths),
        train_documents=train.documents,
        train_bytes=train.bytes,
        train_tokens=train.tokens,
        held_out_documents=held_out.documents,
        held_out_bytes=held_out.bytes,
        held_out_tokens=held_out.tokens,
        skipped=dict(sorted(spool.reading.left_out.items())),
        files=spool.reading.files,
        examples=spool.reading.examples,
        limited=spool.reading.limited,
        train_learnt=train.learnt,
        held_out_learnt=held_out.learnt,
    )
    (part / MANIFEST).write_bytes(msgspec.json.format(msgspec.json.encode(manifest), indent=2))


@dataclass
class _Side:
    documents: int = 0
    bytes: int = 0
    tokens: int = 0
    learnt: int = 0


def _conversations(
    rows: Iterator[tuple[bool, str]],
    tokenizer: Tokenizer,
    part: Path,
    report: Report,
    form: ChatForm,
    reading: Reading,
) -> tuple[_Side, _Side]:
    """Writes the tokens of both sides and their marks. Raises DataError if a side has nothing left."""
    sides = _Side(), _Side()
    with ExitStack() as stack:
        opened = [
            [stack.enter_context((part / (name + end)).open("wb")) for end in ("", MARKS)]
            for name in (TRAIN, HELD_OUT)
        ]
        for chunk in _chunks(rows):
            for held in (False, True):
                texts = [text for side, text in chunk if side == held]
                for ids, marks, size in form.tokens(texts, tokenizer, reading):
                    for file, values in zip(opened[held], (ids, marks), strict=True):
                        file.write(values.tobytes())
                    sides[held].documents += 1
                    sides[held].bytes += size
                    sides[held].tokens += len(ids)
                    sides[held].learnt += int((marks & LEARNT > 0).sum())
            report("tokenise", sides[0].bytes + sides[1].bytes)
    for side, what in zip(sides, ("train on", "hold out"), strict=True):
        if not side.documents:
            left_out = reasons(dict(reading.left_out), reading.examples) or "there are too few rows"
            raise DataError(f"data: no conversation to {what} ({left_out})")
    return sides


def _tokenise(
    texts: Iterator[tuple[bool, str]], tokenizer: Tokenizer, part: Path, report: Report
) -> tuple[_Side, _Side]:
    """Writes train.bin and held_out.bin, each text followed by the end-of-document token."""
    sides = _Side(), _Side()
    end = np.array([tokenizer.end], tokenizer.dtype).tobytes()
    with (part / TRAIN).open("wb") as train, (part / HELD_OUT).open("wb") as held_out:
        out = train, held_out
        for chunk in _chunks(texts):
            for (held, text), ids in zip(
                chunk, tokenizer.encode([t for _, t in chunk]), strict=True
            ):
                out[held].write(ids.tobytes() + end)
                sides[held].documents += 1
                sides[held].bytes += len(text.encode())
                sides[held].tokens += len(ids) + 1
            report("tokenise", sides[0].bytes + sides[1].bytes)
    return sides


def _chunks(texts: Iterator[tuple[bool, str]]) -> Iterator[list[tuple[bool, str]]]:
    chunk, size = [], 0
    for item in texts:
        chunk.append(item)
        size += len(item[1])
        if size >= CHUNK:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _local_files(spec: DataSpec, base: Path) -> list[Path]:
    return [f for name in spec.paths if not name.startswith("hf:") for f in files(name, base)]


def cache_key(spec: DataSpec, base: Path, more: list[Any]) -> str:
    """32 hex digits of what the data set is made from: specification, files, their state, and `more`."""
    paths = _local_files(spec, base)
    tokenizer = base / Path(spec.tokenizer).expanduser()
    if tokenizer.is_dir():
        paths += sorted(f for f in tokenizer.iterdir() if f.is_file())
    elif tokenizer.is_file():
        paths.append(tokenizer)
    state = [(_name(f), (s := f.stat()).st_size, s.st_mtime_ns) for f in paths]
    closed = [_name(f) for f in paths if not os.access(f, os.R_OK)]  # left out until they open
    what = [FORMAT, RULES, version("tokenizers"), msgspec.to_builtins(spec), state, closed]
    return blake3(msgspec.json.encode(what + more)).hexdigest(16)


def _name(path: Path) -> str:
    """The real path as text, even if a name in it is no UTF-8."""
    return os.fsencode(path.resolve()).decode(errors="backslashreplace")


def _expected_bytes(spec: DataSpec, base: Path) -> int:
    """A guess at the bytes of text, before any is read: compressed text grows about four times."""
    size = sum(spec.limit or HF_LIMIT for name in spec.paths if name.startswith("hf:"))
    for file in _local_files(spec, base):
        suffix, compression = kind(file)
        size += file.stat().st_size * (4 if compression or suffix == ".parquet" else 1)
    return size if spec.limit is None else min(size, spec.limit)


def _check_room(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise DataError(
            f"data: preparing it needs about {needed / 1e6:,.0f} MB in {folder.parent}, where "
            f"{free / 1e6:,.0f} MB are free; free some room or set a limit = BYTES in [data]"
        )
