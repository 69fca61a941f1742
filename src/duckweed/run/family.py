"""What follows from the specification of a family: its runs, and who trains them. Pure functions."""

import msgspec

from duckweed.run.sections import Branch, Paths
from duckweed.run.spec import RunSpec


def paths_of(spec: RunSpec) -> Paths:
    """Section [paths] of a family's specification."""
    assert isinstance(spec.paths, Paths)
    return spec.paths


def name_of(path: int) -> str:
    """How the run of a path is called in the folder of its family, or of its common start."""
    return f"path-{path}"


def deal(peers: int, paths: int) -> list[list[int]]:
    """The peers of each path, dealt like cards: peer p goes to path p modulo the number of paths. Where there
    are fewer peers than paths, each path has one, and peers train several paths in turn."""
    return [
        [hand % peers for hand in range(max(peers, paths)) if hand % paths == path]
        for path in range(paths)
    ]


def common_rounds(spec: RunSpec) -> int:
    """Rounds of `rounds.count` that belong to the common start: one at least, and one is left to the paths."""
    share = paths_of(spec).common * spec.rounds.count
    return min(spec.rounds.count - 1, max(1, round(share)))


def common(spec: RunSpec, router: str = "", coordinators: tuple[str, ...] = ()) -> RunSpec:
    """The run that all peers train first; its learning rate does not fall at its end. router: its digest; coordinators:
    public keys of the first coordinators of the paths: both where successors may have to begin the paths."""
    branch = Branch(-1, router, 0, spec.total_steps, coordinators or msgspec.UNSET)
    return _run(spec, common_rounds(spec), spec.rounds.peers, branch)


def whole(common: RunSpec) -> RunSpec:
    """The specification of the family whose common start this is."""
    assert isinstance(common.branch, Branch)
    rounds = msgspec.structs.replace(common.rounds, count=common.branch.ends // common.inner.steps)
    return msgspec.structs.replace(common, rounds=rounds, branch=msgspec.UNSET)


def of_path(spec: RunSpec, path: int, router: str) -> RunSpec:
    """The run of a path, which goes on where the common start ended. router: its digest."""
    before = common_rounds(spec)
    peers = len(deal(spec.rounds.peers, paths_of(spec).count)[path])
    branch = Branch(path, router, before * spec.inner.steps, spec.total_steps)
    return _run(spec, spec.rounds.count - before, peers, branch)


def port_of(first: int, number: int) -> int:
    """Of the coordinator of that number after the one of the common start, which listens at port `first`; 0: any. One
    more is left to each for the relay beside it."""
    return first and first + 2 * number


def needed(spec: RunSpec) -> list[int]:
    """Sequences of one inner step of all peers of each path."""
    hands = deal(spec.rounds.peers, paths_of(spec).count)
    return [len(hand) * spec.inner.batch for hand in hands]


def _run(spec: RunSpec, count: int, peers: int, branch: Branch) -> RunSpec:
    rounds = msgspec.structs.replace(spec.rounds, count=count, peers=peers)
    return msgspec.structs.replace(spec, rounds=rounds, branch=branch)
