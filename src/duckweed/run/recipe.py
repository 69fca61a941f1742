"""A recipe: the part of a specification that says how to train, as a file of its own.

It has no data, no seed and no rounds: those are of a run. `duckweed evolve` leaves one.
"""

import tomllib
from pathlib import Path
from typing import Any

import msgspec

from duckweed.run import toml
from duckweed.run.spec import SPEC_LIMIT, RunSpec, SpecError, override

SECTIONS = ("model", "architecture", "inner", "wire", "merge", "outer")


def lay(spec: RunSpec, path: Path) -> RunSpec:
    """The specification with what the recipe in a file says; keys that it leaves out stay.

    A model described by a file is looked for beside the recipe. Raises SpecError.
    """
    found = _read(path)
    for section, keys in found.items():
        if section not in SECTIONS:
            raise SpecError(
                f"{path}: {section} is no part of a recipe, which has {', '.join(SECTIONS)}; a whole "
                f"specification is trained with `duckweed train {path}`"
            )
        if not isinstance(keys, dict):
            raise SpecError(f"{path}: {section} = {keys!r}: expected a section [{section}]")
    source = found.get("model", {}).get("source")
    if isinstance(source, str) and (path.parent / source).exists():
        found["model"]["source"] = str((path.parent / source).resolve())
    changes = {f"{section}.{key}": v for section, keys in found.items() for key, v in keys.items()}
    try:
        return override(spec, changes)
    except SpecError as error:
        raise SpecError(f"{path}: {error}") from error


def write(spec: RunSpec) -> str:
    """TOML text that `lay` reads: the specification's sections that make a recipe."""
    raw = msgspec.to_builtins(spec)
    return toml.text({name: raw[name] for name in SECTIONS})


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise SpecError(f"{path}: no such file; `duckweed evolve` leaves a recipe as evolved.toml")
    if path.stat().st_size > SPEC_LIMIT:
        raise SpecError(f"{path}: larger than {SPEC_LIMIT} bytes; is this a recipe?")
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except UnicodeDecodeError as error:
        raise SpecError(f"{path}: not UTF-8 text; is this a recipe?") from error
    except tomllib.TOMLDecodeError as error:
        raise SpecError(f"{path}: not valid TOML: {error}") from error
