"""The models of paths with a trunk, on disk: what they hold in common is stored once.

Each folder stays one that transformers reads: two shards and an index. That of the trunk is one file with as many names
(hard links) as there are paths, where the file system has such; else a copy in each folder.
"""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import torch
from safetensors import torch as safetensors

from duckweed.run.folder import write_atomically

WHOLE = "model.safetensors"
TRUNK, OWN = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
INDEX = f"{WHOLE}.index.json"


def divide(models: Sequence[Path], in_common: Callable[[str], bool]) -> None:
    """Divide exported models into what is common to all and what is each one's own. in_common: whether a tensor of this
    name is. Models that are divided already, or are in more files than one, are left as they are. At every instant each
    folder holds a whole model. Raises OSError."""
    for folder in models:
        if not (folder / WHOLE).is_file():
            continue
        tensors = safetensors.load_file(folder / WHOLE)
        common = {name: tensor for name, tensor in tensors.items() if in_common(name)}
        own = {name: tensor for name, tensor in tensors.items() if name not in common}
        if not common or not own:
            continue
        _store(_bytes(common), folder / TRUNK, [model / TRUNK for model in models])
        write_atomically(folder / OWN, _bytes(own))
        files = {name: TRUNK if name in common else OWN for name in tensors}
        size = sum(tensor.nbytes for tensor in tensors.values())
        index = {"metadata": {"total_size": size}, "weight_map": files}
        write_atomically(folder / INDEX, msgspec.json.format(msgspec.json.encode(index), indent=2))
        (folder / WHOLE).unlink()  # it is what is read where it is there


def _bytes(tensors: dict[str, torch.Tensor]) -> bytes:
    return safetensors.save(tensors, {"format": "pt"})


def _store(data: bytes, path: Path, others: Sequence[Path]) -> None:
    """Write a file, or link it to one of the others that has the same contents."""
    for other in others:
        if other != path and other.is_file() and other.read_bytes() == data:
            path.unlink(missing_ok=True)
            try:
                os.link(other, path)
            except OSError:  # this file system has no such links
                break
            return
    write_atomically(path, data)
