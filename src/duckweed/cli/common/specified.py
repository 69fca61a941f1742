"""The options that make a specification: the same, with the same meaning, for every command that begins a run."""

import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from duckweed.cli.common.errors import fail

if TYPE_CHECKING:
    from duckweed.run.spec import RunSpec

Data = Annotated[
    list[str] | None,
    typer.Option(help="Text: files, folders, globs, hf:NAME[:config], or 'stdlib'. Repeatable."),
]
Field = Annotated[str | None, typer.Option(help="Field of JSON, column of Parquet. Default: text.")]
Encoding = Annotated[
    str | None,
    typer.Option(help="Of text without a byte-order mark: cp1252, utf-16-le ... Default: utf-8."),
]
Limit = Annotated[
    str | None, typer.Option(metavar="SIZE", help="At most so much of the text: 20MB.")
]
Model = Annotated[str | None, typer.Option(help="Preset, folder, config.json or hub name.")]
Tokenizer = Annotated[str | None, typer.Option(help="bytes, bpe:N, or a tokenizer.")]
Peers = Annotated[int | None, typer.Option(help="How many peers.")]
Rounds = Annotated[
    int | None,
    typer.Option(
        help="How many rounds, each of inner.steps steps; with --saving: as much training as those."
    ),
]
Saving = Annotated[
    float | None,
    typer.Option(
        metavar="TIMES",
        help="A budget of bytes: each peer is to send so many times fewer than data parallelism would. How "
        "many rounds there are and how long each is follows from it. Without a specification and --rounds: "
        "300.",
    ),
]
Seed = Annotated[int | None, typer.Option(help="Everything random follows from it.")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", help="Any key of the specification, such as inner.steps=30."),
]
Recipe = Annotated[
    Path | None,
    typer.Option(help="How to train (TOML), as `evolve` leaves it: laid over the specification."),
]


def changes(
    data: list[str] | None = None,
    field: str | None = None,
    encoding: str | None = None,
    limit: str | None = None,
    model: str | None = None,
    tokenizer: str | None = None,
    peers: int | None = None,
    rounds: int | None = None,
    seed: int | None = None,
    assignments: list[str] | None = None,
    saving: float | None = None,
) -> dict[str, Any]:
    """The options as dotted keys of the specification."""
    given: dict[str, Any] = {
        "data.path": (data[0] if len(data) == 1 else data) if data else None,
        "data.field": field,
        "data.encoding": encoding,
        "data.limit": size(limit),
        "model.source": model,
        "data.tokenizer": tokenizer,
        "rounds.peers": peers,
        "rounds.count": rounds,
        "rounds.saving": saving,
        "seed": seed,
    }
    found = {key: value for key, value in given.items() if value is not None}
    for text in assignments or []:
        key, equals, value = text.partition("=")
        if not equals:
            fail(f"--set {text}: expected KEY=VALUE, such as inner.steps=30")
        found[key.strip()] = _value(value.strip())
    return found


def size(limit: str | None) -> int | None:
    """Bytes that --limit names, as a number or with a unit."""
    from duckweed.run import units

    if limit is None:
        return None
    return int(limit) if limit.isdecimal() else int(units.size(limit, "--limit").value)


def specification(
    file: Path | None, recipe: Path | None, wanted: dict[str, Any]
) -> tuple["RunSpec", Path]:
    """The specification in a file (None: the defaults) with a recipe and changes laid over it, and the
    folder that its relative paths start from. Raises SpecError."""
    from duckweed.run import defaults
    from duckweed.run import recipe as recipes
    from duckweed.run import spec as specs

    if file or recipe:
        spec = specs.load(file) if file else specs.RunSpec()
        spec = specs.override(recipes.lay(spec, recipe) if recipe else spec, wanted)
    else:
        spec = defaults.start(wanted)
    base = file.resolve().parent if file and "data.path" not in wanted else Path.cwd()
    said = file.read_text("utf-8") if file else ""
    if not specs.names_tokenizer(said, wanted):
        spec = specs.with_own_tokenizer(spec, base)
    return spec, base


def refuse_with_run(wanted: dict[str, Any], recipe: Path | None) -> None:
    """A run that exists keeps its specification."""
    if recipe is not None:
        fail("a run keeps its specification: --recipe does not go with a run that has begun")
    if wanted:
        fail(f"a run keeps its specification: {', '.join(wanted)} cannot change any more")


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
