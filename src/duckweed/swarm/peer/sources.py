"""Where a joiner's text, model and tokenizer come from: what a specification from the network may name, and
what only the joiner's own word may.

A specification comes from somebody else. It may name the standard library, a preset, or the hub, and
nothing on the joiner's machine: what a peer trains on leaves its machine as weights.
"""

import re
from pathlib import Path

import msgspec

from duckweed.learn.data.corpus import HF_LIMIT
from duckweed.learn.data.reading import DataError
from duckweed.learn.model.presets import PRESETS
from duckweed.run.spec import RunSpec
from duckweed.run.units import show_size

_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}"
_ON_HUB = re.compile(rf"{_NAME}(/{_NAME})?")
# A name without its owner may stand for the library's own readers ("text", "csv"), which read files here.
_DATA_ON_HUB = re.compile(rf"hf:{_NAME}/{_NAME}(:[A-Za-z0-9._-]{{1,96}})?")


class Sources(msgspec.Struct, frozen=True):
    """What the joiner itself has named; empty: as the run's specification has it."""

    data: tuple[str, ...] = ()
    config: str = ""
    tokenizer: str = ""

    def of(self, spec: RunSpec, here: Path, disk: float | None = None) -> RunSpec:
        """The specification with the joiner's own sources in the place of the run's, to be read on this
        machine. here: folder in which relative names would be looked for; disk: bytes that the joiner
        allows. Raises DataError where what is left names something on this machine, or too much."""
        data, model = spec.data, spec.model
        if self.data:
            data = msgspec.structs.replace(data, path=self.data)
        else:
            for path in data.paths:
                _check_text(path)
            _check_size(spec, disk)
        if self.tokenizer:
            data = msgspec.structs.replace(data, tokenizer=self.tokenizer)
        elif data.tokenizer != "bytes" and not data.tokenizer.startswith("bpe:"):
            _check_name("tokenizer", data.tokenizer, here)
        if self.config:
            model = msgspec.structs.replace(model, source=self.config)
        elif model.source not in PRESETS:
            _check_name("model", model.source, here, "config")
        return msgspec.structs.replace(spec, data=data, model=model)


def _check_text(path: str) -> None:
    if path != "stdlib" and not _DATA_ON_HUB.fullmatch(path):
        raise DataError(
            f"the run's text is at {path!r}, which is a place on a machine and not on the hub. What a peer "
            "trains on leaves its machine as weights, so no file of yours is read on the run's word: get "
            "the text from the organiser, and name it with --data"
        )


def _check_size(spec: RunSpec, disk: float | None) -> None:
    """Text from the hub is kept twice for a moment, as text and as tokens."""
    if any(path.startswith("hf:") for path in spec.data.paths) and disk is not None:
        needed = 2 * (spec.data.limit or HF_LIMIT)
        if needed > disk:
            raise DataError(
                f"the run's text comes from the hub and takes up to {show_size(needed)} here; your limit of "
                f"disk is {show_size(disk)} (--disk)"
            )


def _check_name(what: str, name: str, here: Path, option: str = "tokenizer") -> None:
    """Refuse what is no name on the hub, and what would be taken for a file or folder here instead."""
    plain = _ON_HUB.fullmatch(name) and not name.endswith(".json") and ".." not in name
    if not plain or (here / name).exists():
        why = "and a file or folder of that name lies here" if plain else "a place on a machine"
        raise DataError(
            f"the run's {what} is {name!r}, {why}. Nothing of yours is read on the run's word: get it from "
            f"the organiser, and name it with --{option}"
            + ("; or join from another folder" if plain else "")
        )
