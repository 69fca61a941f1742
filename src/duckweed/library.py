"""What `import duckweed` offers: runs trained, simulated, joined and looked at from Python.

Nothing here prints or ends the process: what the commands say on the way goes to the logger "duckweed", and
errors are raised, each with a message for its reader (duckweed.run.error_words.EXPECTED lists their types).
"""

import asyncio
import contextlib
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from duckweed.learn.fit import Machine, Wish
from duckweed.learn.site.place import Place
from duckweed.ledger.entries import RUN, Body
from duckweed.ledger.ledger import Entry, Ledger
from duckweed.net.identity import adopt, verify
from duckweed.net.link_spec import LinkSpec, parse_links
from duckweed.process import environment
from duckweed.round.run_log import RunLog, run_log
from duckweed.run import defaults
from duckweed.run import folder as folders
from duckweed.run import plugins as plugin_files
from duckweed.run import spec as specs
from duckweed.run.events import Event, RoundClosed
from duckweed.run.folder import Destination, RunFolder
from duckweed.run.lock import alone
from duckweed.run.plugins import Plugin
from duckweed.run.spec import RunSpec
from duckweed.volunteer import controls
from duckweed.volunteer.controls import Controls, ControlsError
from duckweed.volunteer.peer_home import PeerHome

if TYPE_CHECKING:
    from duckweed.pages.run_summary import Summary
    from duckweed.session import Evaluation, Events, Session

Specification = RunSpec | Path | str | Mapping[str, object]
"""A specification: made already; the path of a file; TOML text; or dotted keys over the defaults, such as
{"inner.steps": 30}."""
File = Path | str

What = TypeVar("What")

log = logging.getLogger(__name__)


class Run:
    """A run in a folder on this machine, finished or not. Reading it needs no PyTorch."""

    def __init__(self, folder: RunFolder, spec: RunSpec) -> None:
        self.folder = folder
        """Its files."""
        self.spec = spec
        """Its specification."""

    def __repr__(self) -> str:
        return f"<duckweed run {self.folder.path}: {len(self.history().rounds)} of {self.spec.schedule.rounds} rounds>"

    @property
    def path(self) -> Path:
        """Its folder."""
        return self.folder.path

    @property
    def finished(self) -> bool:
        """Whether its model was exported."""
        return (self.folder.model / "config.json").is_file()

    @property
    def model(self) -> Path:
        """Folder of its model, for transformers' `from_pretrained`. Raises FolderError if the run is not
        finished."""
        return _session().model_of(self.folder.path)

    def ledger(self) -> list[Entry[Body]]:
        """All entries of its ledger, chain and signatures checked. Raises LedgerError."""
        ledger = Ledger(self.folder.ledger)
        try:
            ledger.verify(verify)
            return list(ledger.entries(*RUN))
        finally:
            ledger.close()

    def history(self) -> RunLog:
        """Its closed rounds with losses, times and bytes, and what surrounds them. Raises LedgerError."""
        return run_log(self.folder)

    def losses(self) -> list[tuple[int, float]]:
        """Held-out loss where it was measured: (closed rounds, nats per token), the first being (0, loss
        of the weights that the run began with)."""
        told = self.history()
        found = [(one.number, one.held_out) for one in told.rounds if one.held_out is not None]
        return found + ([(len(told.rounds), told.final[0])] if told.final else [])

    def train(
        self,
        *,
        device: str = "auto",
        threads: int = 1,
        port: int = 0,
        micro: int | None = None,
        compile: bool = False,
    ) -> "Training":
        """Go on from the last closed round, as `duckweed train --resume`. Arguments: see `train`."""
        environment.prepare()
        session = _session().reopen(self.folder, device, threads, wish=Wish(micro, compile=compile))
        return Training(self, session, lambda: _session().train(session, port))

    def simulate(
        self,
        *,
        links: str | Sequence[LinkSpec] | None = None,
        step_seconds: float | Sequence[float] | None = None,
        device: str = "auto",
        threads: int = 1,
        micro: int | None = None,
        compile: bool = False,
    ) -> "Training":
        """Go on on a virtual clock. Arguments: see `simulate`."""
        environment.prepare()
        each = links_of(links, self.spec)
        session = _session().reopen(self.folder, device, threads, wish=Wish(micro, compile=compile))
        return Training(self, session, lambda: _session().simulate(session, each, step_seconds))

    def generate(
        self,
        prompt: str,
        tokens: int = 200,
        temperature: float = 0.7,
        seed: int = 0,
        device: str = "auto",
        top_p: float = 0.95,
        write: Callable[[str], None] | None = None,
    ) -> str:
        """The prompt continued by up to `tokens` tokens. temperature: 0 takes the likeliest each time;
        top_p: of the likeliest tokens, as many as have this probability together are drawn from; write:
        is given the text as it is written. Raises FolderError if the run is not finished."""
        environment.prepare()
        return _session().generate(
            self.folder.path, prompt, tokens, temperature, seed, device, top_p, write
        )

    def evaluate(
        self,
        *texts: File,
        field: str = "text",
        encoding: str = "utf-8",
        limit: int | None = None,
        device: str = "auto",
    ) -> "Evaluation":
        """Measure its model on other texts: files, folders, globs, as in section [data]. Raises
        FolderError if the run is not finished, DataError."""
        environment.prepare()
        paths = [str(text) for text in texts]
        return _session().evaluate(
            self.folder.path, paths, field, encoding, device, (), log.info, limit
        )


class Stoppable(ABC, Generic[What]):
    """What is trained by iterating over what happens in it, and stops in order when that is left."""

    _events: Generator[What, None, None] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def events(self) -> Generator[What, None, None]:
        """All that happens (duckweed.run.events), the progress of each peer included."""
        self.close()
        self._events = self._all()
        return self._events

    def close(self) -> None:
        """Stop it in order, if it is being trained."""
        if self._events is not None:
            self._events.close()

    @abstractmethod
    def _all(self) -> Generator[What, None, None]:
        """Train what is left, and tell what happens."""


class Training(Stoppable[Event]):
    """A run that is ready to be trained; to iterate over its rounds or events trains it.

    Left early, by `break` or by an error, it stops in order, and iterating again goes on, as does
    `duckweed.open(path).train()` later. After the last round the model is measured and exported. Used
    with `with`, it has surely stopped at the end of the block, whatever still refers to the iterator.
    """

    def __init__(self, run: Run, session: "Session", start: Callable[[], "Events"]) -> None:
        self.run = run
        """The run, to be looked at at any time."""
        self.summary: Summary | None = None
        """What came of it; None before it has ended."""
        self._session, self._start = session, start

    def __iter__(self) -> Iterator[RoundClosed]:
        """The rounds as they close. Raises RunFailed; of a simulation, whatever ends a peer."""
        with contextlib.closing(self.events()) as events:
            for event in events:
                if isinstance(event, RoundClosed):
                    yield event

    def _all(self) -> "Events":
        session = _session()
        if not session.trained(self._session):
            yield from self._start()
        if session.trained(self._session):
            self.summary = session.finish(self._session)


def specification(
    given: Specification,
    changes: Mapping[str, object] | None = None,
    base: Path | None = None,
) -> RunSpec:
    """A specification from whatever describes it, with dotted keys changed. A model that is given with its
    weights brings its own tokenizer, where neither names one; base: where relative paths start (default:
    the folder of its file, else the current one). Raises SpecError."""
    changes, said = dict(changes or {}), ""
    if isinstance(given, RunSpec):
        return specs.override(given, changes) if changes else given
    if isinstance(given, Mapping):
        changes = {**given, **changes}
        spec = defaults.start(changes)
    elif file := file_of(given):
        spec, said = specs.load(file), file.read_text("utf-8")
    else:
        spec, said = specs.parse(str(given), "the specification"), str(given)
    spec = specs.override(spec, changes) if changes else spec
    if specs.names_tokenizer(said, changes):
        return spec
    return specs.with_own_tokenizer(spec, base or base_of(given))


def train(
    given: Specification,
    changes: Mapping[str, object] | None = None,
    *,
    base: File | None = None,
    name: str | None = None,
    runs: File = "runs",
    device: str = "auto",
    threads: int = 1,
    port: int = 0,
    micro: int | None = None,
    compile: bool = False,
    plugins: Sequence[File] = (),
) -> Training:
    """Begin a run on this machine, one process for each peer, as `duckweed train`. It trains while the
    result is iterated over.

    changes: dotted keys of the specification; base: where relative paths in it start (default: the folder
    of its file, else the current one); name, runs: its folder is runs/name (default: the next that is
    free); device: auto, cpu, cuda, cuda:N or mps; threads: CPU threads of each peer; port: UDP port of the
    coordinator, 0: any; micro: sequences of a step that are trained at a time (None: as many as fit
    into memory); compile: whether layers are compiled first; plugins: files of one's own that each process loads.

    Raises SpecError, PluginError, FolderError, DataError, ModelError, MemoryError, OSError."""
    loaded = plugin_files.load(plugins)
    base = Path(base) if base else base_of(given)
    spec = specification(given, changes, base)
    machine = Machine(device, threads, spec.rounds.peers, Wish(micro, compile=compile))
    session = _found(spec, destination_of(given, base, name, runs), machine, loaded)
    return Training(Run(session.folder, spec), session, lambda: _session().train(session, port))


def simulate(
    given: Specification,
    changes: Mapping[str, object] | None = None,
    *,
    links: str | Sequence[LinkSpec] | None = None,
    step_seconds: float | Sequence[float] | None = None,
    base: File | None = None,
    name: str | None = None,
    runs: File = "runs",
    device: str = "auto",
    threads: int = 1,
    micro: int | None = None,
    compile: bool = False,
    plugins: Sequence[File] = (),
) -> Training:
    """The same in this process and on a virtual clock, as `duckweed train --simulate`: the same weights.

    links: of the peers, such as "10/50 80ms" (Mbit/s up/down, round trip; one, or one for each peer after
    commas); None: they take no time. step_seconds: of an inner step, of all peers or of each; None: as
    measured. Otherwise as `train`."""
    loaded = plugin_files.load(plugins)
    base = Path(base) if base else base_of(given)
    spec = specification(given, changes, base)
    each = links_of(links, spec)
    machine = Machine(device, threads, 1, Wish(micro, compile=compile))
    session = _found(spec, destination_of(given, base, name, runs), machine, loaded)
    run = Run(session.folder, spec)
    return Training(run, session, lambda: _session().simulate(session, each, step_seconds))


def open(path: File, *, plugins: Sequence[File] = ()) -> Run:
    """A run that exists: its folder, or its name under runs/. plugins: files that take the place of those
    of the same name that the run was trained with. Raises FolderError, SpecError, PluginError."""
    folder = folders.find(Path(path))
    plugin_files.load_of(folder, plugins)
    return Run(folder, specs.load(folder.spec))


def join(
    invitation: str | None = None,
    *,
    data: Sequence[File] = (),
    config: File = "",
    tokenizer: File = "",
    home: File | None = None,
    identity: str | None = None,
    device: str = "auto",
    dry_run: bool = False,
    mirror: str = "",
    plugins: Sequence[File] = (),
    **limits: str | int | bool | None,
) -> str:
    """Take part in somebody's run from this process until it ends, as `duckweed join`; returns why it
    ended. The same call again goes on as the same peer.

    invitation: the line that `duckweed serve` printed, None: that which `home` keeps; data: where the run's
    text lies here, and config, tokenizer: its model's configuration and tokenizer, where these are not on the
    hub (nothing on this machine is read on the run's word); home: folder of the peer (default: joined/RUN); identity: who to be (`duckweed
    identity`); dry_run: only say, to the log, what it would do; mirror: URL of the run's mirror; plugins: files of one's own that the run
    needs, never taken from the run; limits: up, down, hours, pause_when_busy, memory, disk, threads, micro, compile,
    answers_only, nice, model
    (duckweed.volunteer.controls.Controls). Memory and nice hold for this whole process, and stay.

    Raises InvitationError, PeerHomeError, Busy, LinkError, SpecError, PluginError, DataError, ModelError,
    ControlsError, PeerStopped."""
    environment.prepare()
    peer_home, held = home_of(invitation, home, identity, limits, plugins)
    if held.processes > 1 or Place.here():
        raise ControlsError(
            "several processes as one peer are started by the command `duckweed join`, also under torchrun; from Python a "
            "peer is one process: processes=1"
        )
    with alone(peer_home.lock, wait=False):
        from duckweed import participation  # it imports PyTorch

        place = participation.ready(held, device)
        paths = [str(path) for path in data]
        named = str(config), str(tokenizer), mirror
        reason = _await(participation.join(peer_home, paths, place, log.info, dry_run, *named))
        for line in () if dry_run else participation.take_home(peer_home, place, log.info):
            log.info(line)
        return reason


def home_of(
    invitation: str | None,
    home: File | None,
    identity: str | None,
    limits: Mapping[str, Any],
    plugins: Sequence[File],
) -> tuple[PeerHome, Controls]:
    """The folder of a peer with all that its user has said, which is kept there for the next time."""
    peer_home = PeerHome.of(invitation, Path(home) if home else None)
    if identity:
        adopt(peer_home.peer / "key", identity)
    held = controls.changed(controls.load(peer_home.peer), dict(limits))
    controls.save(peer_home.peer, held)
    plugin_files.load_of(RunFolder(peer_home.home), plugins)
    return peer_home, held


def destination_of(given: Specification, base: Path, name: str | None, runs: File) -> Destination:
    """Where a run that is specified so goes."""
    file = file_of(given)
    return Destination(
        base, Path(runs), name or folders.next_name(Path(runs), file.stem if file else "train")
    )


def _found(spec: RunSpec, to: Destination, machine: Machine, loaded: Sequence[Plugin]) -> "Session":
    environment.prepare()
    session: Session = _session().found(spec, to, machine, loaded, log.info)
    return session


def file_of(given: Specification) -> Path | None:
    """The file that a specification is to be read from; None if it is given otherwise."""
    is_text = isinstance(given, str) and ("=" in given or "\n" in given)
    return Path(given) if isinstance(given, str | Path) and not is_text else None


def base_of(given: Specification) -> Path:
    """Where relative paths in a specification start."""
    file = file_of(given)
    return file.resolve().parent if file else Path.cwd()


def links_of(links: str | Sequence[LinkSpec] | None, spec: RunSpec) -> Sequence[LinkSpec] | None:
    return parse_links(links, spec.rounds.peers) if isinstance(links, str) else links


def _session() -> ModuleType:
    """duckweed.session, which imports PyTorch."""
    from duckweed import session

    return session


def _await(work: Coroutine[Any, Any, str]) -> str:
    """Run to the end, also where this thread is in an event loop already, as in a notebook."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    loop = asyncio.new_event_loop()
    task = loop.create_task(work)
    with ThreadPoolExecutor(1) as thread:
        ended = thread.submit(loop.run_until_complete, task)
        try:
            return ended.result()
        except BaseException:  # Ctrl-C comes here, while the work goes on there
            loop.call_soon_threadsafe(task.cancel)
            raise
