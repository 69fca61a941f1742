"""Where a joiner's text, model and tokenizer come from: what a specification from the network may name, and
what only the joiner's own word may.

A specification comes from somebody else. It may name the standard library, a preset, or the hub, and
nothing on the joiner's machine: what a peer trains on leaves its machine as weights.
"""

import re
from pathlib import Path
from typing import NamedTuple

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
        missing = _missing(self, spec, here)
        if missing:
            raise DataError(_words(missing))
        if not self.data:
            _check_size(spec, disk)
        data = msgspec.structs.replace(
            data, path=self.data or data.path, tokenizer=self.tokenizer or data.tokenizer
        )
        model = msgspec.structs.replace(model, source=self.config or model.source)
        return msgspec.structs.replace(spec, data=data, model=model)


class _Missing(NamedTuple):
    """What a specification names on some machine, and the joiner's word has to name."""

    what: str
    name: str
    option: str
    hidden: bool = False
    """Whether it could be on the hub, but something of that name lies here."""


def _missing(own: Sources, spec: RunSpec, here: Path) -> list[_Missing]:
    found = []
    if not own.data:
        texts = [x for x in spec.data.paths if x != "stdlib" and not _DATA_ON_HUB.fullmatch(x)]
        found += [_Missing("text", text, "data") for text in texts[:1]]
    tokenizer, source = spec.data.tokenizer, spec.model.source
    if not own.tokenizer and tokenizer != "bytes" and not tokenizer.startswith("bpe:"):
        found += _not_on_hub("tokenizer", tokenizer, "tokenizer", here)
    if not own.config and source not in PRESETS:
        found += _not_on_hub("model", source, "config", here)
    return found


def _not_on_hub(what: str, name: str, option: str, here: Path) -> list[_Missing]:
    """What is no name on the hub, or would be taken for a file or folder here instead."""
    plain = bool(_ON_HUB.fullmatch(name)) and not name.endswith(".json") and ".." not in name
    return [_Missing(what, name, option, plain)] if not plain or (here / name).exists() else []


def _words(missing: list[_Missing]) -> str:
    """Why nobody can join so, and what to do."""
    if len(missing) > 1:
        named = ", ".join(f"its {x.what} {x.name!r} (--{x.option})" for x in missing)
        return (
            f"the run names what lies on a machine and not on the hub: {named}. What a peer trains on leaves its machine "
            "as weights, so nothing of yours is read on the run's word: get each from the organiser, and name it with "
            "that option"
        )
    one = missing[0]
    if one.what == "text":
        return (
            f"the run's text is at {one.name!r}, which is a place on a machine and not on the hub. What a peer "
            "trains on leaves its machine as weights, so no file of yours is read on the run's word: get "
            "the text from the organiser, and name it with --data"
        )
    why = "and a file or folder of that name lies here" if one.hidden else "a place on a machine"
    return (
        f"the run's {one.what} is {one.name!r}, {why}. Nothing of yours is read on the run's word: get it from "
        f"the organiser, and name it with --{one.option}"
        + ("; or join from another folder" if one.hidden else "")
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
