"""The beginning of a run: its data, its first weights, the first scales, its ledger."""

import errno
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
from platformdirs import user_cache_path
from torch import nn
from transformers import PretrainedConfig

from duckweed.learn import registry
from duckweed.learn.data import dataset as datasets
from duckweed.learn.data.dataset import Dataset
from duckweed.learn.learner import Learner, Part
from duckweed.learn.memory import check_memory
from duckweed.learn.model import model as models
from duckweed.ledger.entries import GenesisEntry
from duckweed.ledger.ledger import Ledger
from duckweed.net.identity import load_or_create
from duckweed.round.worker import disk_needed
from duckweed.run import toml
from duckweed.run.folder import RunFolder, write_atomically
from duckweed.run.layout import Layout
from duckweed.run.spec import RunSpec
from duckweed.run.state import State, first
from duckweed.wire.codec import codec_of

Report = Callable[[str], None]


def cache_folder() -> Path:
    """Where prepared data sets are kept between runs."""
    return user_cache_path("duckweed", appauthor=False)


class Ground(msgspec.Struct):
    """What a run stands on, on this machine: the folder of its specification (relative paths start
    there) and its prepared data."""

    base: Path
    dataset: Dataset


def prepare(spec: RunSpec, base: Path, say: Report) -> Ground:
    """Data read and tokenised, its size checked. Raises DataError."""
    say("reading the data")
    dataset = datasets.prepare(spec.data, base, cache_folder())
    say(dataset.manifest.told())
    sequences = spec.rounds.peers * spec.inner.batch
    datasets.check_size(dataset, spec.model.sequence, sequences)
    return Ground(base, dataset)


def configuration(spec: RunSpec, ground: Ground) -> PretrainedConfig:
    """The configuration of the run's model. Raises ModelError."""
    return models.configuration(
        spec.model.source,
        ground.base,
        ground.dataset.manifest.vocabulary,
        spec.model.sequence,
        given=spec.model.weights == "given",
        architecture=spec.architecture,
    )


def learner(spec: RunSpec, ground: Ground, device: str) -> Learner:
    """What trains the run's model on this machine. Raises ModelError."""
    return registry.learner(spec, configuration(spec, ground), ground.dataset, device)


def first_model(spec: RunSpec, ground: Ground) -> nn.Module:
    """The model with the weights that the run starts from, on the CPU."""
    if spec.model.weights == "given":
        return models.given_weights(spec.model.source, ground.base)
    zero = spec.architecture.zero_projections
    return models.build(configuration(spec, ground), "cpu", spec.seed, zero)


def found(
    spec: RunSpec, ground: Ground, folder: RunFolder, device: str, machine_peers: int, say: Report
) -> State:
    """Write a run's folder: specification, layout, first state, ledger with its genesis entry.

    machine_peers: how many peers will share this machine's memory. Raises ModelError, DataError,
    MemoryError with what is needed.
    """
    skeleton = models.skeleton(configuration(spec, ground))
    check_memory(skeleton, spec, device, machine_peers)
    layout = models.layout_of(skeleton)
    check_room(folder, spec, layout)
    say(f"making a model of {layout.total:,} parameters")
    weights = models.read_weights(first_model(spec, ground))

    def gradient() -> np.ndarray:
        say("measuring the first scales")
        return first_gradient(spec, learner(spec, ground, device), weights)

    state = first(layout, weights, codec_of(spec.wire, layout).first_shared(gradient))
    write_atomically(folder.spec, toml.write(spec).encode())
    write_atomically(folder.path / "layout.json", msgspec.json.encode(layout))
    facts = {"base": str(ground.base), "dataset": str(ground.dataset.folder)}
    write_atomically(folder.path / "local.json", json.dumps(facts).encode())
    state.save(folder.state(0))
    identity = load_or_create(folder.coordinator_key)
    ledger = Ledger(folder.ledger, identity.sign)
    ledger.append(0, genesis(spec, ground, layout, state, identity.id))
    ledger.close()
    return state


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
        windows=datasets.sequences(ground.dataset, spec.model.sequence),
        state=state.hash(),
        scales=[float(x) for x in state.shared],
        parameters=layout.total,
        data=ground.dataset.manifest.hash,
    )


def first_gradient(spec: RunSpec, learner: Learner, weights: np.ndarray) -> np.ndarray:
    """The pseudo-gradient f32[P] of block 0 from the first weights f32[P], trained here once: what peers
    share in round 0 comes from it, before anybody has announced anything."""
    return learner.train(weights, Part(block=0, first=0, steps=spec.inner.steps)).delta


def reopen(folder: RunFolder, spec: RunSpec) -> Ground:
    """The ground of an existing run; data that is no longer in the cache is prepared again."""
    facts = json.loads((folder.path / "local.json").read_text("utf-8"))
    place = Path(facts["dataset"])
    base = Path(facts["base"])
    if place.is_dir():
        return Ground(base, Dataset.open(place))
    return Ground(base, datasets.prepare(spec.data, base, cache_folder()))


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
