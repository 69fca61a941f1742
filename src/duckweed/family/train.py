"""A family trained on this machine: the common start, then the paths, several at a time."""

from collections.abc import Generator, Sequence
from contextlib import ExitStack
from typing import NamedTuple

from duckweed import session
from duckweed.family import begin
from duckweed.family.begin import Family
from duckweed.family.folder import COMMON, name_of
from duckweed.net.link_spec import LinkSpec
from duckweed.net.timeouts import VIEW
from duckweed.process import environment
from duckweed.process.forkserver import ForkServer
from duckweed.process.local_run import LocalRun, RunFailed
from duckweed.run import family as rules
from duckweed.run import spec as specs
from duckweed.run.events import Event
from duckweed.run.folder import RunFolder
from duckweed.session import Say, Session


class Told(NamedTuple):
    """What happened in a run of a family."""

    run: str
    """Its name in the family's folder."""
    session: Session
    """The run."""
    event: Event


Story = Generator[Told, None, None]


def train(family: Family, say: Say, forks: ForkServer | None = None, port: int = 0) -> Story:
    """Train with processes what is not trained yet. As many peers are at work at once as the specification names:
    all of them in the common start; then those of the paths, of which the next begins when one has ended. To close
    the iterator ends the processes in order. forks: as of LocalRun; port: of the coordinator of the common start, those
    of the paths follow. Raises RunFailed."""
    with ExitStack() as stack:
        first = family.common
        if forks is None and first.device == "cpu":
            forks = stack.enter_context(ForkServer(environment.of_child(first.threads)))
        if not session.trained(first):
            for event in session.train(first, port, forks):
                yield Told(COMMON, first, event)
        if session.trained(first):
            begin.branch(family, say)
            yield from _together(family, _untrained(family), forks, port)


def simulate(
    family: Family,
    say: Say,
    links: Sequence[LinkSpec] | None = None,
    step_seconds: float | None = None,
) -> Story:
    """The same in this process on a virtual clock: one run after the other, or all paths at the same time, where these
    have something in common. links: of the peers of the common start; a path has those of its peers."""
    first = family.common
    if not session.trained(first):
        for event in session.simulate(first, links, step_seconds):
            yield Told(COMMON, first, event)
    if not session.trained(first):
        return
    begin.branch(family, say)
    paths, waiting = rules.paths_of(family.spec), _untrained(family)
    hands = rules.deal(family.spec.rounds.peers, paths.count)
    at_once = [[path] for path in waiting] if paths.apart or not waiting else [waiting]
    for some in at_once:
        runs = [family.of_path(path) for path in some]
        own = [[links[peer] for peer in hands[path]] if links else None for path in some]
        for place, event in session.simulate_together(runs, own, step_seconds):
            yield Told(name_of(some[place]), runs[place], event)


def trained(family: Family) -> bool:
    """Whether all rounds of all runs are closed."""
    return session.trained(family.common) and not _untrained(family)


def _untrained(family: Family) -> list[int]:
    """The paths whose rounds are not all closed."""
    folders = map(family.folder.of_path, range(rules.paths_of(family.spec).count))
    return [path for path, folder in enumerate(folders) if not _is_trained(folder)]


def _is_trained(folder: RunFolder) -> bool:
    return folder.founded and session.is_trained(folder, specs.load(folder.spec))


def hear(path: int, run: Session, local: LocalRun, seconds: float) -> Story:
    """What happens in a path for so long. Raises RunFailed, which names the path."""
    try:
        for event in local.heard(seconds):
            yield Told(name_of(path), run, event)
    except RunFailed as error:
        raise RunFailed(f"{name_of(path)}: {error}") from error


def _together(family: Family, waiting: list[int], forks: ForkServer | None, port: int) -> Story:
    """Train paths side by side; those that wait begin as peers get free."""
    free = family.spec.rounds.peers
    hands = rules.deal(free, rules.paths_of(family.spec).count)
    at_work: dict[int, tuple[Session, LocalRun]] = {}
    with ExitStack() as stack:
        while waiting or at_work:
            while waiting and (peers := len(hands[waiting[0]])) <= free:
                path = waiting.pop(0)
                run = family.of_path(path)
                share = run.share(family.spec.rounds.peers)
                local = LocalRun(run.folder, run.spec, run.device, run.threads, peers, share, forks)
                stack.enter_context(local).start(f"127.0.0.1:{rules.port_of(port, path + 1)}")
                at_work[path], free = (run, local), free - peers
            for path, (run, local) in list(at_work.items()):
                yield from hear(path, run, local, VIEW / len(at_work))
                if local.over:
                    del at_work[path]
                    free += len(hands[path])
