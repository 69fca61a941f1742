"""The forms as the product trains them: real coordinators and peers in virtual time, contributions on the wire that a
specification has if it names none. The other cells of the comparison have exact means in their place (bench.paths.swarm)."""

import itertools
import tempfile
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean
from typing import Any

import msgspec

from bench.paths import corpus as corpora
from bench.paths import plan
from bench.paths.corpus import PREFIX
from bench.paths.swarm import Cell, specification
from duckweed import session
from duckweed.family import begin, harvest
from duckweed.family import train as training
from duckweed.learn.fit import Machine
from duckweed.round import export, founding
from duckweed.round.founding import cache_folder
from duckweed.run.events import RoundClosed
from duckweed.run.folder import Destination, RunFolder
from duckweed.run.spec import RunSpec, override

FORMS = ("trunk", "none", "dense")
OWN = 0.4  # inner.residual, of peers that begin a round with what they could not send
CASES = (  # wire.levels, seed, whether peers begin so
    (1, 0, False), (1, 1, False), (3, 0, False), (1, 0, True), (1, 1, True),
)  # fmt: skip
GUIDE = 0.04  # that rounds of ten steps want
SIZE = 1_000_000  # bytes of each domain


def missing(found: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The cells that have no record yet, each trained as it is asked for: name and record."""
    shape, batch, rounds = plan.SIZES["0.3M"]
    for (levels, seed, own), form in itertools.product(CASES, FORMS):
        name = named(form, levels, seed, own)
        if name not in found:
            print(name, flush=True)
            rate = plan.TUNED[form]
            cell = Cell(form, rate, rounds, shape=shape, batch=batch, seed=seed, guide=GUIDE)
            yield name, measured(form, cell, levels, own)


def named(form: str, levels: int, seed: int, own: bool) -> str:
    return f"{form}-levels{levels}-seed{seed}" + "-own" * own


def measured(form: str, cell: Cell, levels: int, own: bool) -> dict[str, Any]:
    """Bits per byte behind the prefix, of held-out text of all domains. cell: what is trained, of that form; levels: of the
    wire; own: whether peers begin a round with what they could not send."""
    begin = {"inner.residual": OWN} if own else {}
    spec = override(_specification(cell), {"wire.levels": levels} | begin)
    with tempfile.TemporaryDirectory() as place:
        if form == "dense":
            bits, runs = _dense(spec, Path(place))
        else:
            family = _trained(spec, form, Path(place))
            bits, runs = harvest.finish(family, _quiet).bits[1], family.folder.runs[1:]
        bytes_up, bytes_down = _bytes(runs)
    return {
        "form": form,
        "rate": cell.rate,
        "levels": levels,
        "seed": cell.seed,
        "own": own,
        "bits_per_byte": round(bits, 4),
        "contribution_bytes": bytes_up,
        "update_bytes": bytes_down,
    }


def _specification(cell: Cell) -> RunSpec:
    return override(
        specification(cell),
        {
            "data.path": str(_texts()), "data.tokenizer": "bytes", "inner.precision": "fp32",
            "rounds.evaluate": 1000, "rounds.evaluate_tokens": 4096, "rounds.checkpoint": 100,
        },
    )  # fmt: skip


def _texts() -> Path:
    """The domains as JSON lines, a file for each."""
    cache = cache_folder() / "bench-paths"
    place = cache / "texts"
    place.mkdir(parents=True, exist_ok=True)
    for name in corpora.DOMAINS:
        file, taken = place / f"{name}.jsonl", 0
        if file.exists():
            continue
        lines = []
        for _, text in sorted(corpora.documents(name, cache)):
            if taken < SIZE:
                lines.append(msgspec.json.encode({"text": text.decode(errors="ignore")}))
                taken += len(text)
        file.write_bytes(b"\n".join(lines))
    return place


def _family(spec: RunSpec, form: str) -> RunSpec:
    return override(
        spec, {"paths.count": 8, "paths.prefix": PREFIX, "paths.common": 0.15, "paths.shared": form}
    )


def _trained(spec: RunSpec, form: str, place: Path) -> begin.Family:
    to = Destination(place, place / "runs", form)
    family = begin.found(_family(spec, form), to, Machine("cpu"), (), print, print)
    for told in training.simulate(family, _quiet):
        if isinstance(told.event, RoundClosed) and told.event.round % 10 == 0:
            print(f"  {told.run} round {told.event.round}: {told.event.loss:.3f}", flush=True)
    return family


def _dense(spec: RunSpec, place: Path) -> tuple[float, list[RunFolder]]:
    """One model of all peers, measured as a family is: on what the router of one gives to its paths, behind the prefix."""
    # Its router is all that is wanted of it.
    short = override(spec, {"rounds.count": 3, "inner.warmup": 1})
    family = _trained(short, "none", place)
    figures = harvest.finish(family, _quiet)
    to = Destination(place, place / "runs", "dense")
    run = session.found(spec, to, Machine("cpu"), (), print)
    for event in session.simulate(run):
        if isinstance(event, RoundClosed) and event.round % 10 == 0:
            print(f"  dense round {event.round}: {event.loss:.3f}", flush=True)
    weights = export.latest_state(run.folder, run.spec).weights
    nats = []
    for path, told in enumerate(figures.paths):
        one = family.of_path(path)
        learner = founding.learner(one.spec, one.ground, one.device)
        total, tokens = learner.evaluate(weights, export.FINAL_TOKENS, batch=32)
        nats.append(msgspec.structs.replace(told, after=total / tokens))
    return msgspec.structs.replace(figures, paths=nats).bits[1], [run.folder]


def _bytes(runs: list[RunFolder]) -> tuple[int, int]:
    """Mean bytes of a contribution, and of the updates of a round, on a path."""
    events = [event for folder in runs for event in folder.records(RoundClosed)]
    up = [size for event in events for size in event.contribution_bytes]
    return round(fmean(up)), round(fmean(event.update_bytes for event in events))


def _quiet(text: str) -> None:
    pass
