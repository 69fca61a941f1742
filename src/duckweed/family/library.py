"""What `import duckweed` offers for a family: trained, simulated, looked at and put to work from Python, as runs are by
duckweed.library, and like there without a printed word."""

import contextlib
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import UNSET

from duckweed import library
from duckweed.family import folder as folders
from duckweed.family.folder import FamilyFolder
from duckweed.learn.fit import Machine, Wish
from duckweed.library import File, Run, Specification, Stoppable, log
from duckweed.net.link_spec import LinkSpec
from duckweed.process import environment
from duckweed.run import plugins as plugin_files
from duckweed.run.events import Event, RoundClosed
from duckweed.run.folder import FolderError
from duckweed.run.spec import RunSpec, SpecError

if TYPE_CHECKING:
    from duckweed.family.begin import Family as Session
    from duckweed.family.routing import Choice, Measured
    from duckweed.family.train import Story
    from duckweed.pages.family_page import Figures

Told = tuple[str, Event]
"""The run of a family, by its name in the family's folder, and what happened in it."""


class Family:
    """A family of runs in a folder on this machine, finished or not."""

    def __init__(self, folder: FamilyFolder) -> None:
        """Raises SpecError."""
        self.folder = folder
        """Its files."""
        self.spec = folder.read_spec()
        """Its specification."""

    def __repr__(self) -> str:
        return f"<duckweed family {self.path}: {len(self.folder.runs) - 1} paths>"

    @property
    def path(self) -> Path:
        """Its folder."""
        return self.folder.path

    @property
    def common(self) -> Run:
        """The common start."""
        return library.open(self.folder.common.path)

    @property
    def paths(self) -> list[Run]:
        """The paths, each a run as any other; none before the common start is done."""
        return [library.open(run.path) for run in self.folder.runs[1:] if run.founded]

    @property
    def figures(self) -> "Figures | None":
        """What came of it; None before it is finished. Raises FolderError."""
        from duckweed.family import harvest

        return harvest.read(self.folder)

    def train(
        self, *, device: str = "auto", threads: int = 1, micro: int | None = None
    ) -> "FamilyTraining":
        """Go on from the last closed rounds, as `duckweed train --resume`. Arguments: see `train_family`."""
        return _training(_reopen(self.folder, device, threads, micro))

    def simulate(
        self,
        *,
        links: str | Sequence[LinkSpec] | None = None,
        step_seconds: float | None = None,
        device: str = "auto",
        threads: int = 1,
    ) -> "FamilyTraining":
        """Go on in this process. Arguments: see `simulate_family`."""
        return _simulation(_reopen(self.folder, device, threads, None), links, step_seconds)

    def route(self, text: str, mix: int = 1) -> "Choice":
        """The path that a text goes to, or the `mix` likeliest, by its first tokens. Raises FolderError, DataError."""
        from duckweed.family import routing

        return routing.route(self.folder, text, mix)

    def generate(
        self,
        prompt: str,
        tokens: int = 200,
        temperature: float = 0.7,
        seed: int = 0,
        device: str = "auto",
        top_p: float = 0.95,
        write: Callable[[str], None] | None = None,
        mix: int = 1,
    ) -> str:
        """The prompt continued by the path that its first tokens choose, which is told to the log; mix: by so many of
        the likeliest, mixed. Else as `Run.generate`. Raises FolderError, DataError, ModelError."""
        environment.prepare()
        from duckweed.family import routing

        return routing.generate(
            self.folder, prompt, tokens, temperature, seed, device, top_p, write, log.info, mix
        )

    def evaluate(
        self,
        *texts: File,
        field: str = "text",
        encoding: str = "utf-8",
        limit: int | None = None,
        device: str = "auto",
        mix: int = 1,
    ) -> "Measured":
        """Measure it on other texts: each sequence is routed by its first tokens, and what follows them is measured.
        mix: as of `generate`; else as `Run.evaluate`. Raises FolderError, DataError, ModelError."""
        environment.prepare()
        from duckweed.family import routing

        paths = [str(text) for text in texts]
        return routing.evaluate(self.folder, paths, field, encoding, device, log.info, limit, mix)


class FamilyTraining(Stoppable[Told]):
    """A family that is ready to be trained; to iterate over its rounds or events, each with the name of its run, trains
    it. As `Training`, it stops in order when it is left early, and goes on when it is iterated over again."""

    def __init__(self, session: "Session", start: Callable[[], "Story"]) -> None:
        self.family = Family(session.folder)
        """The family, to be looked at at any time."""
        self.figures: Figures | None = None
        """What came of it; None before it has ended."""
        self._session, self._start = session, start

    def __iter__(self) -> Iterator[tuple[str, RoundClosed]]:
        """The rounds as they close, each with the name of its run: common, path-0, ... Raises RunFailed; of a
        simulation, whatever ends a peer."""
        with contextlib.closing(self.events()) as events:
            for name, event in events:
                if isinstance(event, RoundClosed):
                    yield name, event

    def _all(self) -> Generator[Told, None, None]:
        from duckweed.family import harvest
        from duckweed.family import train as training

        if not training.trained(self._session):
            with contextlib.closing(self._start()) as story:
                for told in story:
                    yield told.run, told.event
        if training.trained(self._session):
            self.figures = harvest.read(self.family.folder) or harvest.finish(
                self._session, log.info
            )


def train_family(
    given: Specification,
    changes: Mapping[str, object] | None = None,
    *,
    base: File | None = None,
    name: str | None = None,
    runs: File = "runs",
    device: str = "auto",
    threads: int = 1,
    micro: int | None = None,
    plugins: Sequence[File] = (),
) -> FamilyTraining:
    """Begin a family on this machine, one process for each peer, as `duckweed train` with a section [paths]; the
    router is fitted and the common start founded before this returns. Arguments and errors as of `duckweed.train`."""
    peers = None
    session = _found(given, changes, base, name, runs, device, threads, micro, plugins, peers)
    return _training(session)


def simulate_family(
    given: Specification,
    changes: Mapping[str, object] | None = None,
    *,
    links: str | Sequence[LinkSpec] | None = None,
    step_seconds: float | None = None,
    base: File | None = None,
    name: str | None = None,
    runs: File = "runs",
    device: str = "auto",
    threads: int = 1,
    plugins: Sequence[File] = (),
) -> FamilyTraining:
    """The same in this process, one run after the other, each on a virtual clock of its own: the same weights. links: of
    the peers of the common start, which they take along to their paths; step_seconds: of an inner step of all.
    Otherwise as `duckweed.simulate`."""
    session = _found(given, changes, base, name, runs, device, threads, None, plugins, 1)
    return _simulation(session, links, step_seconds)


def open_family(path: File) -> Family:
    """A family that exists: its folder, or its name under runs/. Raises FolderError, SpecError."""
    folder = folders.find(Path(path))
    if folder is None:
        raise FolderError(
            f"{path}: no family of runs is there; a single run is opened by duckweed.open"
        )
    return Family(folder)


def _found(
    given: Specification,
    changes: Mapping[str, object] | None,
    base: File | None,
    name: str | None,
    runs: File,
    device: str,
    threads: int,
    micro: int | None,
    plugins: Sequence[File],
    peers: int | None,
) -> "Session":
    """peers: how many will share this machine; None: all."""
    loaded = plugin_files.load(plugins)
    start = Path(base) if base else library.base_of(given)
    spec: RunSpec = library.specification(given, changes, start)
    if spec.paths is UNSET:
        raise SpecError(
            "section [paths] is missing, which says how many paths the family has; a single run is trained by "
            "duckweed.train"
        )
    environment.prepare()
    from duckweed.family import begin

    machine = Machine(device, threads, peers or spec.rounds.peers, Wish(micro))
    place = library.destination_of(given, start, name, runs)
    return begin.found(spec, place, machine, loaded, log.info, log.warning)


def _reopen(folder: FamilyFolder, device: str, threads: int, micro: int | None) -> "Session":
    environment.prepare()
    from duckweed.family import begin

    return begin.reopen(folder, device, threads, (), Wish(micro))


def _training(session: "Session") -> FamilyTraining:
    from duckweed.family import train as training

    return FamilyTraining(session, lambda: training.train(session, log.info))


def _simulation(
    session: "Session", links: str | Sequence[LinkSpec] | None, step_seconds: float | None
) -> FamilyTraining:
    from duckweed.family import train as training

    each = library.links_of(links, session.spec)
    return FamilyTraining(session, lambda: training.simulate(session, log.info, each, step_seconds))
