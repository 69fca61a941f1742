"""A data set is made: a corpus is read once, split into two sides and tokenised, into a folder of the cache."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from blake3 import blake3

from duckweed.learn.data import tokenizer as tokenizers
from duckweed.learn.data.chat import LEARNT, ChatForm, Template
from duckweed.learn.data.corpus import HF_LIMIT, Report, Spool
from duckweed.learn.data.dataset import (
    FORMAT,
    HELD_OUT,
    MANIFEST,
    MARKS,
    TOKENIZER,
    TRAIN,
    Dataset,
    Manifest,
    tokens_hash,
)
from duckweed.learn.data.files import files, kind
from duckweed.learn.data.reading import DataError, Reading, reasons
from duckweed.learn.data.tokenizer import Tokenizer
from duckweed.run.folder import private
from duckweed.run.lock import alone
from duckweed.run.sections import DataSpec

RULES = 3  # by which files become documents, and these tokens; with another number, data is prepared anew
CHUNK = 1 << 20  # bytes of text that are tokenised at a time


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
