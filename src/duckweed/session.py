"""A run on this machine from its founding to its report: what the commands and the library both call."""

import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import torch

from duckweed.learn import memory
from duckweed.learn.data import preparation
from duckweed.learn.data.dataset import Dataset
from duckweed.learn.device import choose
from duckweed.learn.fit import ANY, Fit, Machine, Wish
from duckweed.learn.learner import Learner
from duckweed.learn.model import model as models
from duckweed.learn.model.architecture import ModelError
from duckweed.learn.model.given import model_in
from duckweed.learn.model.model import buffers_of, read_weights, write_weights
from duckweed.learn.model.presets import PRESETS
from duckweed.learn.model.talk import Talk
from duckweed.learn.registry import learner
from duckweed.learn.single import SingleDevice
from duckweed.learn.tasks import exam
from duckweed.learn.tasks import pace as paces
from duckweed.learn.tasks.exam import Result
from duckweed.learn.tasks.problems import rows_of
from duckweed.ledger.entries import StateEntry
from duckweed.ledger.ledger import Ledger
from duckweed.net.link_spec import LinkSpec
from duckweed.pages.run_page import run_page
from duckweed.pages.run_summary import Summary, bits_per_byte, summarise
from duckweed.process.environment import available_cores
from duckweed.process.forkserver import ForkServer
from duckweed.process.local_run import LocalRun
from duckweed.process.simulation import Simulation, together
from duckweed.round import export, founding
from duckweed.round.founding import Ground
from duckweed.round.sampler import Sampler
from duckweed.round.worker import disk_needed
from duckweed.run import folder as folders
from duckweed.run import plugins, units
from duckweed.run import spec as specs
from duckweed.run import state as states
from duckweed.run.events import Event, Said
from duckweed.run.folder import Destination, FolderError, RunFolder, write_atomically
from duckweed.run.plugins import Plugin
from duckweed.run.sections import DataSpec
from duckweed.run.spec import RunSpec
from duckweed.run.task.pace import Pace
from duckweed.run.task.sections import Environment, Reinforce
from duckweed.run.task.work import holds_start
from duckweed.wire import threads as codec_threads
from duckweed.wire.codec import codec_of

SHARES = 200  # in which a long text is measured
SEQUENCE = 512  # tokens at a time, of a model that no run has a sequence for
Say = Callable[[str], None]
Events = Generator[Event, None, None]


@dataclass(frozen=True)
class Session:
    """A run that is ready to be trained on this machine."""

    folder: RunFolder
    spec: RunSpec
    ground: Ground
    device: str
    """As PyTorch names it."""
    threads: int
    """CPU threads of each peer."""
    wish: Wish = ANY
    """Of the memory of each peer."""

    def share(self, peers: int) -> Wish:
        """The same, with what is free now shared out among as many peers."""
        return msgspec.structs.replace(self.wish, room=memory.room(self.device, peers))


class Evaluation(msgspec.Struct, frozen=True):
    """How well a model predicts a text."""

    nats: float
    """Mean loss, nats per token."""
    bits_per_byte: float
    """The same per byte of text, which does not depend on the tokenizer."""
    tokens: int
    """Tokens that the loss was taken over."""
    text_bytes: int
    """Bytes of the text."""


def found(
    spec: RunSpec,
    place: Destination,
    machine: Machine,
    loaded: Sequence[Plugin],
    say: Say,
    warn: Say | None = None,
) -> Session:
    """A new run, whose folder is there once it is founded. loaded: the plug-ins that it needs; say: what is being
    done; warn: what the user should know after that, too.

    Raises FolderError, DataError, ModelError, MemoryError, OSError."""
    with folders.founding(place.runs, place.name) as folder:
        plugins.remember(folder, loaded)
        device = _device(machine.device, machine.threads)
        ground = founding.prepare(spec, place.base, say)
        founding.found(spec, ground, folder, device, machine.peers, say, warn, machine.wish)
    return Session(RunFolder(place.path), spec, ground, device, machine.threads, machine.wish)


def reopen(
    folder: RunFolder,
    device: str,
    threads: int,
    files: Sequence[Path | str] = (),
    wish: Wish = ANY,
) -> Session:
    """A run that exists. files: plug-ins that the user has named now; wish: as in `found`. Raises FolderError if it never
    began, PluginError, SpecError."""
    if not folder.founded:
        raise FolderError(
            f"{folder.path}: this run never began; what made it was ended before. Remove the folder and "
            "give the command that began it again"
        )
    if (
        not folder.coordinator_key.is_file()
    ):  # a peer's folder: it has the ledger, and may not write it
        raise FolderError(
            f"{folder.path}: this machine did not begin the run; take part in it with: duckweed join --home "
            f"{folder.path}"
        )
    plugins.load_of(folder, files)
    spec = specs.load(folder.spec)
    device = _device(device, threads)
    return Session(folder, spec, founding.reopen(folder, spec), device, threads, wish)


def train(run: Session, port: int = 0, forks: ForkServer | None = None) -> Events:
    """Train with processes, from the last closed round on; port: of the coordinator, 0: any; forks: as of
    LocalRun. To close the iterator ends the processes in order. Raises RunFailed."""
    peers = run.spec.rounds.peers
    with LocalRun(
        run.folder, run.spec, run.device, run.threads, peers, run.share(peers), forks
    ) as processes:
        processes.start(f"127.0.0.1:{port}")
        yield from processes.events()


def simulate(
    run: Session,
    links: Sequence[LinkSpec] | None = None,
    step_seconds: float | Sequence[float] | None = None,
) -> Events:
    """Train in this process on a virtual clock, from the last saved state on. links, step_seconds: of
    the peers (duckweed.process.simulation)."""
    with closing(simulate_together([run], [links], step_seconds)) as happens:
        for _, event in happens:
            yield event


def simulate_together(
    runs: Sequence[Session],
    links: Sequence[Sequence[LinkSpec] | None],
    step_seconds: float | Sequence[float] | None = None,
) -> Generator[tuple[int, Event], None, None]:
    """The same of several runs at the same time: what happens in each, by its place among them. links: of each run's
    peers."""
    simulations = []
    for run, own in zip(runs, links, strict=True):
        layout = founding.layout(run.folder)
        state = states.load(run.folder.start(run.spec.rounds.overlap > 0), layout)
        simulations.append(
            Simulation(
                run.folder, run.spec, layout, run.ground, state, run.device, own, step_seconds,
                wish=run.wish,
            )
        )  # fmt: skip
    with closing(together(simulations)) as happens:
        yield from happens
    for place, (run, done) in enumerate(zip(runs, simulations, strict=True)):
        text = (
            f"Simulated: on these links and at this speed {run.spec.schedule.rounds} rounds take "
            f"{done.clock:,.1f} s. Final state {done.state.hash()[:16]}"
        )
        yield place, Said(text)


def peak(run: Session) -> tuple[Fit, int, int]:
    """How each peer will fit its steps into memory, the bytes that it is predicted to take at its peak,
    and those that it can count on."""
    model = models.skeleton(founding.configuration(run.spec, run.ground))
    share = run.share(run.spec.rounds.peers)
    way = memory.ways(model, run.spec, run.device, share)[0]
    return way, memory.whole(model, run.spec, run.device, way), share.room or 0


def closed_rounds(folder: RunFolder) -> int:
    """How many rounds of a run are closed. Raises LedgerError."""
    with closing(Ledger(folder.ledger)) as ledger:
        return ledger.closed_rounds()


def round_seconds(run: Session, peers: int, simulated: bool) -> float | None:
    """What a round will take here on average, by the steps that were done at the founding; None where that cannot be
    known: other machines take part, or peers share an accelerator. peers: how many share this machine;
    simulated: one process does the work of all, in turn."""
    spec, step = run.spec, run.folder.local().get("step_seconds")
    if not step or peers < spec.rounds.peers:
        return None
    at_once = 1 if simulated else max(1, available_cores() // run.threads)
    if run.device != "cpu" and not simulated and peers > 1:
        return None
    turns = max(1.0, peers / at_once)
    # Forward alone is a third of the work of a step; peers share what is evaluated.
    measured = spec.rounds.evaluate_tokens / peers / spec.rounds.evaluate / 3
    steps = spec.total_steps / spec.schedule.rounds
    return float(step * turns * (steps + measured / spec.tokens_per_step))


def trained(run: Session) -> bool:
    """Whether all rounds are closed, and the peers have agreed on the last state. Raises LedgerError."""
    return is_trained(run.folder, run.spec)


def is_trained(folder: RunFolder, spec: RunSpec) -> bool:
    """The same of a run that need not be opened for it."""
    with closing(Ledger(folder.ledger)) as ledger:
        return ledger.last_round(StateEntry) == spec.schedule.rounds


def finish(run: Session, keep: bool = True) -> Summary:
    """After the last round: measure the model, export it, write the report. keep: False for no model."""
    sample = export.harvest(run.folder, run.spec, run.ground, run.device, keep)
    parameters = founding.layout(run.folder).total
    ratio = export.bytes_per_token(run.ground.dataset)
    summary = summarise(run.folder, run.spec, parameters, ratio, sample)
    write_atomically(run.folder.report, run_page(run.folder, run.spec, summary).encode())
    return summary


def needs(run: Session) -> list[str]:
    """What a machine must have to take part, in words for a stranger."""
    size = units.show_size
    layout = founding.layout(run.folder)
    skeleton = models.skeleton(founding.configuration(run.spec, run.ground))
    room = memory.needed(skeleton, run.spec) + memory.PROCESS
    text = ", ".join(run.spec.data.paths)
    where = (
        "Python's own" if text == "stdlib" else "get it from the organiser, and name it with --data"
    )
    source = run.spec.model.source
    if holds_start(run.spec):
        config = [
            f"The model's first weights ({source}), which the loss asks: --config names them."
        ]
    elif source in PRESETS:
        config = []
    else:
        config = [f"The model's configuration ({source}): --config names it."]
    most = codec_of(run.spec.wire, layout).blob_limit
    return [
        f"About {size(room)} of memory and {size(disk_needed(run.spec.inner, layout))} of disk; a graphics "
        "card helps and is not needed.",
        f"The run's text ({text}): {where}.",
        *config,
        f"In each round at most {size(most)} up, and about as much down. A newcomer first fetches the state "
        f"({size(8 * layout.total)}) and trains from the next round on.",
    ]  # fmt: skip


def pace(
    spec: RunSpec, base: Path, device: str, threads: int, files: Sequence[Path | str], say: Say
) -> Pace:
    """How fast this machine is at a run of reinforcement learning that has not begun. base: where relative paths start;
    files: plug-ins. Raises PluginError, DataError, ModelError."""
    plugins.load(files)
    place = _device(device, threads)
    ground = founding.prepare(spec, base, say)
    one = founding.learner(spec, ground, place)
    if not isinstance(one, SingleDevice):
        raise ModelError("the pace of a learner of a plug-in cannot be measured")
    write_weights(one.model, read_weights(founding.first_model(spec, ground)))
    say("measuring how fast this machine writes, checks and trains")
    return paces.measure(one)


def sampler(run: Session, count: int = 1) -> Sampler | None:
    """What lets the model write beside the run; None where there is no room for a second model of each of `count`
    runs, which are served together."""
    if not Sampler.fits(count * founding.layout(run.folder).total):
        return None
    return Sampler(run.folder, run.spec, run.ground, count)


def model_of(path: Path) -> Path:
    """Folder of a model in Hugging Face's format: that of a finished run, or the path itself if it is
    one. Raises FolderError."""
    if (path / "config.json").is_file():
        return path
    return folders.model_folder(folders.find(path).path)


def generate(
    path: Path,
    prompt: str,
    tokens: int,
    temperature: float,
    seed: int,
    device: str,
    top_p: float = export.TOP_P,
    write: Say | None = None,
) -> str:
    """The prompt continued by the model of a finished run, or by a model's folder. top_p, write: as in
    `export.generate`. Raises FolderError."""
    model, place = model_of(path), choose(device)
    return export.generate(model, prompt, tokens, temperature, seed, place, top_p, write)


def examine(
    path: Path,
    names: Sequence[str],
    samples: int,
    problems: int,
    device: str,
    files: Sequence[Path | str],
    say: Say,
    changes: Mapping[str, object] | None = None,
    seed: int = 0,
) -> list[Result]:
    """How many held-out problems the model of a finished run, or of a model's folder, solves. names: of
    environments; empty: those of the run. changes: keys of section [task]; files: as in `reopen`. An
    environment that the run was trained with has the run's settings. Raises FolderError, PluginError,
    DataError, SpecError, ModelError."""
    model, place = model_of(path), choose(device)
    task, share, rows, base = Reinforce(), DataSpec().held_out, None, RunSpec()
    if model != path:
        folder = folders.find(path)
        plugins.load_of(folder, files)
        spec = specs.load(folder.spec)
        share = spec.data.held_out
        if isinstance(spec.task, Reinforce):
            task, base = spec.task, spec
            if not task.environments and not names:
                rows = rows_of(founding.reopen(folder, spec).dataset)
    else:
        plugins.load(files)
    wanted = {name: task.environments.get(name, Environment()) for name in names}
    task = msgspec.structs.replace(task, environments=wanted or task.environments)
    if not task.environments and not rows:
        raise FolderError(
            f"{path} was not trained on problems; name some: --tasks countdown,chain_sum"
        )
    raw = {
        "task": msgspec.to_builtins(task),
        "inner.batch": task.samples,
        "model.sequence": 1 << 20,
    }
    given = {f"task.{key}": value for key, value in (changes or {}).items()}
    held = specs.override(base, raw | given).task
    assert isinstance(held, Reinforce)
    return exam.examine(model, held, problems, samples, place, seed, share, say, rows)


def talk(path: Path, device: str, seed: int, system: str) -> Talk:
    """A conversation with the model of a finished run, or of a model's folder. Raises FolderError, DataError,
    ModelError."""
    return Talk(model_of(path), choose(device), seed, system)


def evaluate(
    path: Path,
    texts: Sequence[str],
    field: str,
    encoding: str,
    device: str,
    files: Sequence[Path | str],
    say: Say,
    limit: int | None = None,
) -> Evaluation:
    """Measure the model of a finished run, or of a model's folder, on other texts. texts, field, encoding,
    limit: as in section [data]; files: as in `reopen`; say: how far it is. Raises FolderError, PluginError,
    DataError, SpecError, ModelError."""
    model, place = model_of(path), choose(device)
    spec = specs.override(RunSpec(), {"model.sequence": SEQUENCE})
    if model != path:
        folder = folders.find(path)
        plugins.load_of(folder, files)
        spec = specs.load(folder.spec)
    dataset = texts_for(model, texts, field, encoding, limit, say)
    say("loading the model")
    network = model_in(model)
    known = getattr(network.config, "max_position_embeddings", None) or spec.model.sequence
    length = max(2, min(spec.model.sequence, known, len(dataset.held_out) - 1))
    spec = specs.override(spec, {"model.sequence": length})
    one = learner(spec, network.config, dataset, place)
    if buffers := buffers_of(network):
        one.fix(buffers)
    nats, tokens = _measured(one, read_weights(network), dataset, length, say)
    loss = nats / tokens
    ratio = export.bytes_per_token(dataset)
    return Evaluation(loss, bits_per_byte(loss, ratio), tokens, dataset.manifest.held_out_bytes)


def texts_for(
    model: Path, texts: Sequence[str], field: str, encoding: str, limit: int | None, say: Say
) -> Dataset:
    """Texts to measure a model on, all of them held out, in its tokenizer. model: its folder; the rest as of
    `evaluate`. Raises DataError."""
    say("reading the data")
    wanted = DataSpec(tuple(texts), field, str(model.resolve()), 1.0, limit, encoding)
    return preparation.prepare(wanted, Path.cwd(), founding.cache_folder(), founding.progress(say))


def _measured(
    learner: Learner, weights: np.ndarray, dataset: Dataset, length: int, say: Say
) -> tuple[float, int]:
    """Sum of nats and number of tokens over the whole held-out text, by shares, with words of how long it
    still takes."""
    batches = max(1, len(dataset.held_out) // (length * export.EVALUATION_BATCH))
    shares, began, nats, tokens = min(SHARES, batches), time.monotonic(), 0.0, 0
    say("measuring")
    for share in range(shares):
        more, count = learner.evaluate(weights, None, share, shares, batch=export.EVALUATION_BATCH)
        nats, tokens = nats + more, tokens + count
        left = (time.monotonic() - began) / (share + 1) * (shares - share - 1)
        if left > 1:
            say(f"measuring: {(share + 1) / shares:.0%} done, about {units.show_time(left)} left")
    return nats, tokens


def _device(wanted: str, threads: int) -> str:
    torch.set_num_threads(threads)
    codec_threads.use(threads)
    return choose(wanted)
