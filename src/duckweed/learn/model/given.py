"""Given weights: the ones that a run starts from where it does not start from scratch."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import HfApi
from safetensors import SafetensorError
from torch import nn
from transformers import AutoModelForCausalLM, PretrainedConfig

from duckweed.learn.model.architecture import ModelError
from duckweed.learn.model.configuration import brief, configuration
from duckweed.learn.model.model import quiet, skeleton
from duckweed.run.folder import model_folder
from duckweed.run.units import show_size

POINTER = b"version https://git-lfs.github.com/spec"
TEXT_PARTS = {
    r"^(model\.)?language_model\.(model\.)?(?!lm_head)": "model.",
    r"^language_model\.lm_head": "lm_head",
}
"""Where composite models keep their text part -> where the text model by itself has it."""
DOUBLE = 8  # bytes of the widest number that a weight is kept in
SLACK = 100_000_000  # bytes of tables, and of tensors that the text model has no use for
FLOATS = ("F64", "F32", "F16", "BF16")  # as safetensors names them
HEADER_LIMIT = 100_000_000  # bytes, as in the safetensors library


def given_weights(
    source: str,
    base: Path,
    config: PretrainedConfig | None = None,
    warn: Callable[[str], None] = lambda text: None,
) -> nn.Module:
    """The model with the weights that lie at `source`, all of them. config: which model, where it is not
    the one that lies beside them; warn: told of what lies there and is no part of the model. Raises
    ModelError."""
    path = base / Path(source).expanduser()
    path = path.parent if path.is_file() else model_folder(path)
    if path.is_dir():
        for index in sorted(path.glob("*.safetensors.index.json")):
            _check_index(index)
        for file in sorted(path.glob("*.safetensors")):
            _check_file(file)
    elif config is not None:
        _check_download(source, config)
    try:
        with quiet():
            read: Any = AutoModelForCausalLM.from_pretrained(
                str(path) if path.is_dir() else source,
                config=config,
                dtype=torch.float32,
                trust_remote_code=False,
                ignore_mismatched_sizes=True,  # they are named below
                output_loading_info=True,
                key_mapping=TEXT_PARTS,
            )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise ModelError(f"no weights at {source!r}: {brief(error)}") from error
    model, said = read
    faults = [f"{name} is missing" for name in sorted(said["missing_keys"])]
    for name, found, wanted in sorted(said["mismatched_keys"]):
        faults.append(f"{name} is {list(found)} and should be {list(wanted)}")
    if faults:
        more = f", and {len(faults) - 1} more such faults" if faults[1:] else ""
        raise ModelError(
            f"the weights at {source!r} do not fit its config.json: {faults[0]}{more}; take both from the same "
            "model"
        )
    if unused := sorted(said["unexpected_keys"]):
        warn(
            f"The weights at {source!r} hold {len(unused)} tensor{'s' if unused[1:] else ''} that this model has "
            f"no place for, {unused[0]} for one. They are not trained, and not in what comes out."
        )
    for name, value in model.state_dict().items():
        if not torch.isfinite(value).all():
            raise ModelError(
                f"the weights at {source!r} are damaged: {name} has NaN or infinity in it"
            )
    return model


def _check_download(source: str, config: PretrainedConfig) -> None:
    """Refuse weights on the hub that are larger than this model's can be. Raises ModelError."""
    model = skeleton(config)
    most = DOUBLE * sum(x.numel() for x in [*model.parameters(), *model.buffers()]) + SLACK
    try:
        files = HfApi().model_info(source, files_metadata=True).siblings or []
    except Exception:  # whatever the library's transport raised: the hub is not there
        return  # and gives nothing; what is in the cache is here already
    sizes = {x.rfilename: x.size or 0 for x in files}
    weights = [n for name, n in sizes.items() if name.endswith(".safetensors")]
    size = sum(weights or [n for name, n in sizes.items() if name.endswith(".bin")])
    if size > most:
        raise ModelError(
            f"the weights at {source!r} are {show_size(size)}, and those of this model are at most "
            f"{show_size(most)}; they are not fetched"
        )


def model_in(folder: Path) -> Any:
    """The model in a folder of Hugging Face's format, on the CPU; of a composite its text part. Raises
    ModelError."""
    source = str(folder.resolve())
    config = configuration(source, folder, vocabulary=0, sequence=0, given=True)
    model: Any = given_weights(source, folder, config)
    model.config.use_cache = True
    return model.eval()


def _check_index(path: Path) -> None:
    """Raises ModelError where the list of a model's files is damaged, or names one that is not there."""
    try:
        names = sorted(set(json.loads(path.read_text("utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{path} is damaged; fetch it again") from error
    if lacking := [name for name in names if not (path.parent / str(name)).is_file()]:
        raise ModelError(
            f"{path.parent} lacks {lacking[0]}, which {path.name} names ({len(lacking)} of {len(names)} files "
            "are missing); fetch the rest of the model"
        )


def _check_file(path: Path) -> None:
    """Raises ModelError where a safetensors file is visibly not whole."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(max(8, len(POINTER)))
        if start.startswith(POINTER):
            raise ModelError(
                f"{path} is a pointer of Git LFS and not the weights; fetch them: git lfs pull"
            )
        if size < 8:
            raise ModelError(f"{path} is empty or cut off ({size} bytes); fetch it again")
        length = int.from_bytes(start[:8], "little")
        if length > HEADER_LIMIT:
            raise ModelError(f"{path} is no safetensors file; fetch it again")
        file.seek(8)
        try:
            header = json.loads(file.read(length))
            tensors = {name: x for name, x in header.items() if name != "__metadata__"}
            ends = [x["data_offsets"][1] for x in tensors.values()]
            kinds = {name: str(x["dtype"]) for name, x in tensors.items()}
        except (ValueError, AttributeError, KeyError, TypeError, IndexError) as error:
            raise ModelError(f"{path} is damaged or cut off; fetch it again") from error
    wanted = 8 + length + max(ends, default=0)
    if size != wanted:
        raise ModelError(
            f"{path} has {size:,} bytes and should have {wanted:,}: it is damaged or cut off; fetch it "
            "again"
        )
    for name, kind in kinds.items():
        if name.endswith("weight") and kind not in FLOATS:
            raise ModelError(
                f"{path}: {name} is stored as {kind}: the weights are quantised and cannot be trained; give a "
                "folder whose weights are not"
            )
