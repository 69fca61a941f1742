"""The beginning of a run: its data, its first weights, the first scales, its ledger."""

import errno
import logging
import math
import shutil
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from blake3 import blake3
from msgspec import UNSET, UnsetType
from platformdirs import user_cache_path
from safetensors import torch as safetensors
from torch import nn
from transformers import PretrainedConfig

from duckweed.learn import memory, registry
from duckweed.learn.data.dataset import Dataset
from duckweed.learn.data.reading import DataError
from duckweed.learn.fit import ANY, Wish
from duckweed.learn.learner import Learner, Part
from duckweed.learn.model import checks
from duckweed.learn.model import model as models
from duckweed.learn.model.architecture import ModelError
from duckweed.learn.model.given import given_weights
from duckweed.learn.model.network import Network
from duckweed.ledger.entries import GenesisEntry
from duckweed.ledger.ledger import Ledger
from duckweed.net.identity import Identity, load_or_create
from duckweed.net.timeouts import VIEW_DATA
from duckweed.round.worker import disk_needed
from duckweed.run import toml, units
from duckweed.run.folder import FolderError, RunFolder, write_atomically
from duckweed.run.layout import Layout
from duckweed.run.spec import RunSpec, SpecError
from duckweed.run.state import State, first
from duckweed.run.task.sections import Chat, Reinforce
from duckweed.run.task.work import holds_start, writes
from duckweed.wire.codec import codec_of, warm_up

log = logging.getLogger(__name__)
Report = Callable[[str], None]
BUFFERS = "buffers.safetensors"  # in the folder of a run whose model has any that are persistent
TRIED = 2000  # held-out tokens whose text the exported tokenizer must read as in training
COMPARED = 4  # held-out sequences by which given weights are compared with guessing
TIMED = 3  # steps by which the speed of this machine is known
WORSE = 0.5  # nats a token by which given weights may start worse than guessing


def cache_folder() -> Path:
    """Where prepared data sets are kept between runs."""
    return user_cache_path("duckweed", appauthor=False)


class Ground(msgspec.Struct):
    """What a run stands on, on this machine: the folder of its specification (relative paths start
    there) and its prepared data."""

    base: Path
    dataset: Dataset
    buffers: dict[str, torch.Tensor] = {}
    """Persistent buffers of the model; fixed in a run."""
    source: str = ""
    """Of a joiner: where its model comes from on this machine, in place of what the specification, which came
    from the network, names."""
    start: str | UnsetType = UNSET
    """Hash of the run's first weights, where its loss asks what they say."""


def prepare(spec: RunSpec, base: Path, say: Report, router: Path | None = None) -> Ground:
    """Data read and tokenised, its size checked. router: as of `registry.prepare`. Raises DataError, SpecError."""
    if spec.paths is not UNSET and spec.branch is UNSET:
        raise SpecError(
            "a specification with [paths] describes a family of runs, and no single run; a family is begun by "
            "`duckweed train` and `duckweed serve`, in Python by duckweed.train_family and simulate_family"
        )
    say("reading the data")
    dataset = registry.prepare(spec, base, cache_folder(), progress(say), router)
    say(dataset.manifest.told())
    registry.task(spec, dataset).check(spec.rounds.peers * spec.inner.batch)
    return Ground(base, dataset)


def progress(say: Report) -> Callable[[str, int], None]:
    """What tells how far the preparation of data is, once a second."""
    told = time.monotonic()

    def report(what: str, size: int) -> None:
        nonlocal told
        if time.monotonic() - told >= VIEW_DATA:
            told = time.monotonic()
            doing = {"read": "reading the data", "tokenise": "turning the text into tokens"}[what]
            say(f"{doing}: {units.show_size(size)} done")

    return report


def configuration(spec: RunSpec, ground: Ground) -> PretrainedConfig:
    """The configuration of the run's model. Raises ModelError."""
    return models.configuration(
        ground.source or spec.model.source,
        ground.base,
        ground.dataset.manifest.vocabulary,
        spec.model.sequence,
        given=spec.model.weights == "given",
        architecture=spec.architecture,
    )


def learner(
    spec: RunSpec, ground: Ground, device: str, wish: Wish | None = None, say: Report = log.info
) -> Learner:
    """What trains the run's model on this machine. wish: it fits its steps into the memory there is, and
    says how; None: it trains each in one pass. Raises ModelError."""
    config = configuration(spec, ground)
    ways = memory.ways(models.skeleton(config), spec, device, wish) if wish else None
    one = registry.learner(spec, config, ground.dataset, device)
    if ways:
        one.fit(ways, say)
    if ground.buffers:
        one.fix(ground.buffers)
    if holds_start(spec):
        one.hold(lambda: start_model(spec, ground))
    if wish and wish.compile:
        one.compile(say)
    return one


def model(spec: RunSpec, ground: Ground) -> nn.Module:
    """The run's model on the CPU, whose weights are still to be set. Raises ModelError."""
    made = models.build(configuration(spec, ground))
    models.set_buffers(made, ground.buffers)
    return made


def first_model(spec: RunSpec, ground: Ground, warn: Report = lambda text: None) -> nn.Module:
    """The model with the weights that the run starts from, on the CPU. warn: as of `given_weights`."""
    config = configuration(spec, ground)
    made = models.build(config, "cpu", spec.seed, spec.architecture.zero_projections)
    if spec.model.weights == "given":
        # Into a model of our own, which does not remember under which names they were kept.
        given = given_weights(ground.source or spec.model.source, ground.base, config, warn)
        models.write_weights(made, models.read_weights(given))
        models.set_buffers(made, models.buffers_of(given))
    return made


def start_model(spec: RunSpec, ground: Ground) -> nn.Module:
    """The same, once the run has begun. Raises ModelError where they are other weights by now, or on this machine."""
    made = first_model(spec, ground)
    if _hash_of(made) != ground.start:
        raise ModelError(
            f"the weights of {ground.source or spec.model.source!r} here are not those that the run began from, "
            "which its loss (task.kl) asks for; put those back, or take them from where the organiser has them"
        )
    return made


def _hash_of(model: nn.Module) -> str:
    """blake3 of the weights of a model, hex."""
    weights = np.ascontiguousarray(models.read_weights(model), "<f4")
    return blake3(weights.view(np.uint8).data).hexdigest()


def layout_here(spec: RunSpec, ground: Ground, skeleton: nn.Module) -> Layout:
    """The layout of a run's model as this machine builds it. The persistent buffers that the run starts
    and ends with are part of it; `ground` holds them from then on. Raises ModelError."""
    if models.has_buffers(skeleton) and not ground.buffers:
        ground.buffers = models.buffers_of(first_model(spec, ground))
    return models.fixed(models.layout_of(skeleton), ground.buffers)


def found(
    spec: RunSpec,
    ground: Ground,
    folder: RunFolder,
    device: str,
    machine_peers: int,
    say: Report,
    warn: Report | None = None,
    wish: Wish = ANY,
) -> State:
    """Write a run's folder: specification, layout, first state, ledger with its genesis entry; after the
    model was tried out (duckweed.learn.model.checks), so that it does not fail at the end.

    machine_peers: how many peers will share this machine's memory. say: what is being done. warn: what
    the user should know after that, too. wish: of the peers' memory. Raises ModelError, DataError, MemoryError with what is needed.
    """
    skeleton = models.skeleton(configuration(spec, ground))
    memory.check_memory(skeleton, spec, device, machine_peers, wish=wish)
    layout = models.layout_of(skeleton)
    check_room(folder, spec, layout)
    say(f"making a model of {layout.total:,} parameters")
    first_one = first_model(spec, ground, warn or say)
    ground.buffers = models.buffers_of(first_one)
    layout = models.fixed(layout, ground.buffers)
    say("trying out the model and its export")
    _try_out(spec, ground, first_one, folder, device, warn or say)
    warm_up(spec.wire)  # here, and not in each of the processes that begin next
    weights = models.read_weights(first_one)
    ground.start = _hash_of(first_one) if holds_start(spec) else UNSET
    del first_one

    pace = _Pace(whole=writes(spec))

    def gradient() -> np.ndarray:
        say("measuring the first scales")
        one = learner(spec, ground, device, wish, say)
        return first_gradient(spec, one, weights, pace.stepped)

    state = first(layout, weights, codec_of(spec.wire, layout).first_shared(gradient))
    if not pace.marks:
        say("measuring the speed")
        steps = min(TIMED, spec.total_steps)
        one = learner(spec, ground, device, wish)
        one.train(weights, Part(0, 0, steps), report=pace.stepped)
    folder.note({"step_seconds": pace.seconds})
    identity = load_or_create(folder.coordinator_key)
    begin(spec, ground, layout, folder, state, identity, identity.id)
    return state


def begin(
    spec: RunSpec, ground: Ground, layout: Layout, folder: RunFolder, state: State,
    identity: Identity, coordinator: str,
) -> None:  # fmt: skip
    """Write a run's folder; the ledger, whose genesis entry names the first state, is the last. identity: signs that
    entry; coordinator: public key of the run's first one."""
    write_atomically(folder.spec, toml.write(spec).encode())
    keep(folder, ground, layout)
    state.save(folder.state(0))
    with closing(Ledger(folder.ledger, identity.sign)) as ledger:
        if ledger.number < 0:  # a machine that was ended here before may have got so far
            ledger.append(0, genesis(spec, ground, layout, state, coordinator))


def _try_out(
    spec: RunSpec,
    ground: Ground,
    first_one: nn.Module,
    folder: RunFolder,
    device: str,
    warn: Report,
) -> None:
    """Raises ModelError where the model cannot be trained, or its export is not read back as it was."""
    length, vocabulary = spec.model.sequence, ground.dataset.manifest.vocabulary
    checks.check_trains(first_one, length, vocabulary, device)
    if spec.inner.precision != "fp32":
        checks.check_bf16(first_one, length, vocabulary)
    if isinstance(spec.task, Chat) and spec.task.packing:
        checks.check_packs(first_one, length, vocabulary)
    if spec.model.weights == "given" and not isinstance(spec.task, Reinforce):
        _compare_with_guessing(spec, ground, first_one, warn)
    with tempfile.TemporaryDirectory(dir=folder.path, prefix="export-") as place:
        written(first_one, ground, Path(place))


@torch.no_grad()
def _compare_with_guessing(
    spec: RunSpec, ground: Ground, first_one: nn.Module, warn: Report
) -> None:
    """Say aloud where given weights know less of the text than nothing."""
    task = registry.task(spec, ground.dataset)
    batch = next(task.held_out(COMPARED * spec.model.sequence, COMPARED))
    tensors = {name: torch.from_numpy(array) for name, array in batch.items()}
    loss = task.measure(Network(first_one, "cpu", torch.float32), tensors).item()
    guess = math.log(ground.dataset.manifest.vocabulary)
    if not loss <= guess + WORSE:
        warn(
            f"the given weights start at a loss of {loss:.2f} nats a token, which is worse than guessing "
            f"({guess:.2f}); the tokenizer ({spec.data.tokenizer}) is probably not the one that they were "
            "trained with: name that one with --tokenizer"
        )


def written(model: nn.Module, ground: Ground, place: Path) -> tuple[Any, Any]:
    """Export the model with its tokenizer into the folder `place`; both as transformers reads them from
    there. Raises ModelError unless they are what they were."""
    dataset = ground.dataset
    models.export(model, place, dataset.tokenizer.end)
    dataset.tokenizer.save(place)
    text = dataset.tokenizer.decode(dataset.held_out[:TRIED])
    return checks.check_export(model, dataset.tokenizer, place, [text])


def genesis(
    spec: RunSpec, ground: Ground, layout: Layout, state: State, coordinator: str
) -> GenesisEntry:
    """The first entry of a run's ledger. coordinator: public key of the first one."""
    return GenesisEntry(
        run=spec.identity,
        coordinator=coordinator,
        spec=toml.write(spec),
        layout=layout.digest(),
        tokens=ground.dataset.manifest.tokens_hash,
        windows=registry.task(spec, ground.dataset).sequences,
        state=state.hash(),
        scales=[float(x) for x in state.shared],
        parameters=layout.total,
        data=ground.dataset.manifest.hash,
        start=ground.start,
    )


def first_gradient(
    spec: RunSpec,
    learner: Learner,
    weights: np.ndarray,
    report: Callable[[int, float], None] | None = None,
) -> np.ndarray:
    """The pseudo-gradient f32[P] of block 0 from the first weights f32[P], trained here once: what peers
    share in round 0 comes from it, before anybody has announced anything. report: as of Learner.train."""
    part = Part(block=0, first=0, steps=spec.schedule.steps_of(0))
    work = learner.train(weights, part, report=report)
    if work.written and work.written.flat == work.written.problems:
        raise DataError(f"before the first round {work.written.advice()}")
    return work.delta


class _Pace:
    """When steps were done: what one of them takes."""

    def __init__(self, whole: bool) -> None:
        """whole: what comes before the first step is part of the steps."""
        self.whole = whole
        self.began = time.perf_counter()
        self.marks: list[tuple[int, float]] = []  # steps done, and when

    def stepped(self, steps: int, loss: float) -> None:
        self.marks.append((steps, time.perf_counter()))

    @property
    def seconds(self) -> float:
        """Of one step, 0 where nothing was reported; the first one, in which much is done once and for all,
        is left out if others are known."""
        if not self.marks:  # a learner need not report
            return 0.0
        (first, began), (last, ended) = self.marks[0], self.marks[-1]
        if last > first and not self.whole:
            return (ended - began) / (last - first)
        return (ended - self.began) / last


def keep(folder: RunFolder, ground: Ground, layout: Layout) -> None:
    """Note in a run's folder what the run stands on on this machine, so that `reopen` works."""
    write_atomically(folder.path / "layout.json", msgspec.json.encode(layout))
    if ground.buffers:
        write_atomically(folder.path / BUFFERS, safetensors.save(ground.buffers))
    facts = {"base": str(ground.base), "dataset": str(ground.dataset.folder)}
    folder.note(
        facts
        | ({"source": ground.source} if ground.source else {})
        | ({"start": ground.start} if ground.start is not UNSET else {})
    )


def reopen(folder: RunFolder, spec: RunSpec) -> Ground:
    """The ground of an existing run; data that is no longer in the cache is prepared again."""
    facts = folder.local()
    if "dataset" not in facts:
        raise FolderError(f"{folder.path}: this machine did not begin the run; use `duckweed join`")
    place = Path(facts["dataset"])
    base = Path(facts["base"])
    kept = folder.path / BUFFERS
    buffers = safetensors.load(kept.read_bytes()) if kept.is_file() else {}
    start = facts.get("start", UNSET)
    if place.is_dir():
        return Ground(base, Dataset.open(place), buffers, facts.get("source", ""), start)
    if facts.get("source"):
        raise FolderError(
            f"{place}: the run's text, as it was prepared here, is gone; `duckweed join` prepares it again"
        )
    dataset = registry.prepare(spec, base, cache_folder(), router=router_of(folder, spec))
    return Ground(base, dataset, buffers, start=start)


def router_of(folder: RunFolder, spec: RunSpec) -> Path | None:
    """Where the router of a family lies: among the blobs of a run that names it, so that peers can fetch it as any
    other. None of a run that names none."""
    branch = spec.branch
    return None if branch is UNSET or not branch.router else folder.blob(branch.router)


def layout(folder: RunFolder) -> Layout:
    """The layout of an existing run's model."""
    return msgspec.json.decode((folder.path / "layout.json").read_bytes(), type=Layout)


def check_room(folder: RunFolder, spec: RunSpec, layout: Layout) -> None:
    """Raises OSError if the disk has too little room for what the run will certainly write."""
    needed = disk_needed(spec.inner, layout, spec.rounds.peers)
    free = shutil.disk_usage(folder.path).free
    if free < needed:
        raise OSError(
            errno.ENOSPC,
            f"{free / 1e6:,.0f} MB free, at least {needed / 1e6:,.0f} MB needed",
            str(folder.path),
        )
