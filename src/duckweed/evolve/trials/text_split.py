"""The texts of a campaign: training text for trials, two held-out texts for the evaluator alone.

The held-out documents of a data set are divided by their hash into one for selection and one for the
final comparison ("vault" on disk): no document is in two of the three.
The trials' folder holds no held-out token at all.
"""

import shutil
from pathlib import Path

import msgspec
import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from duckweed.learn.data.corpus import DataError
from duckweed.learn.data.dataset import HELD_OUT, MANIFEST, TOKENIZER, TRAIN, Dataset
from duckweed.run.folder import private, write_atomically

FACTS = "facts.json"
LEAST = 4096  # tokens that a held-out text must have


class HeldOutText(msgspec.Struct, frozen=True):
    """What a held-out text consists of."""

    tokens: int
    documents: int
    bytes: int  # of the text as UTF-8, without document ends
    dtype: str  # of the file of tokens


def split_texts(dataset: Dataset, training: Path, held: Path) -> dict[str, HeldOutText]:
    """Writes the trials' folder and the evaluator's. Raises DataError where text is too short."""
    parts = _documents(dataset)
    facts = {}
    for name, documents in parts.items():
        tokens = np.concatenate(documents) if documents else np.empty(0, dataset.held_out.dtype)
        if tokens.size < LEAST:
            raise DataError(
                f"data: {tokens.size:,} held-out tokens for {name}, at least {LEAST:,} are needed; "
                "give more text or raise data.held_out"
            )
        write_atomically(held / f"{name}.bin", tokens.tobytes())
        texts = [dataset.tokenizer.decode(document) for document in documents]
        size = sum(len(text.encode()) for text in texts)
        facts[name] = HeldOutText(int(tokens.size), len(documents), size, dataset.manifest.dtype)
    write_atomically(held / FACTS, msgspec.json.encode(facts))
    private(training)
    shutil.copyfile(dataset.folder / TRAIN, training / TRAIN)
    shutil.copytree(dataset.folder / TOKENIZER, training / TOKENIZER, dirs_exist_ok=True)
    write_atomically(training / HELD_OUT, b"")
    manifest = msgspec.structs.replace(
        dataset.manifest, held_out_documents=0, held_out_bytes=0, held_out_tokens=0
    )
    write_atomically(training / MANIFEST, msgspec.json.encode(manifest))
    return facts


def _documents(dataset: Dataset) -> dict[str, list[NDArray[np.unsignedinteger]]]:
    """Documents (each with its end) of either text; the tokens cut in two where documents are few."""
    tokens = np.asarray(dataset.held_out)
    ends = np.flatnonzero(tokens == dataset.tokenizer.end) + 1
    documents = [d for d in np.split(tokens, ends) if d.size]
    if len(documents) < 8:
        half = tokens.size // 2
        return {"select": [tokens[:half]], "vault": [tokens[half:]]}
    # In the order of their hashes, each to the side that is the smaller so far: even and blind.
    documents.sort(key=lambda d: blake3(d.tobytes()).digest())
    parts: dict[str, list[NDArray[np.unsignedinteger]]] = {"select": [], "vault": []}
    for document in documents:
        smaller = min(parts, key=lambda name: sum(d.size for d in parts[name]))
        parts[smaller].append(document)
    return parts


def read(held: Path, name: str) -> tuple[NDArray[np.unsignedinteger], HeldOutText]:
    """Tokens of a held-out text and what it holds."""
    facts = msgspec.json.decode((held / FACTS).read_bytes(), type=dict[str, HeldOutText])[name]
    kind = np.dtype(facts.dtype).newbyteorder("<")
    tokens = np.memmap(held / f"{name}.bin", dtype=kind, mode="r")
    if tokens.size != facts.tokens:
        raise DataError(f"{held}: {name} has {tokens.size} tokens instead of {facts.tokens}")
    return tokens, facts
