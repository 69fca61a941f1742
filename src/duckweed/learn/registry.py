"""Learners and tasks: which there are, and the one place where a learner is made.

A learner or a task more is one module and one line here (docs/learn.md).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from msgspec import UNSET
from transformers import PretrainedConfig

from duckweed.learn.data import preparation, routed
from duckweed.learn.data.chat import ChatForm
from duckweed.learn.data.corpus import Report
from duckweed.learn.data.dataset import Dataset
from duckweed.learn.data.reading import DataError
from duckweed.learn.data.router import Router
from duckweed.learn.learner import Learner
from duckweed.learn.model.architecture import ModelError
from duckweed.learn.single import SingleDevice
from duckweed.learn.task import Objective, Task
from duckweed.learn.tasks import problems
from duckweed.learn.tasks.chat import ChatLoss, Conversations
from duckweed.learn.tasks.reinforce import PolicyLoss, Reinforcement
from duckweed.learn.tasks.text import NextToken, TextLoss
from duckweed.run.spec import RunSpec
from duckweed.run.task import work
from duckweed.run.task.sections import Reinforce

TASKS: dict[str, Callable[[RunSpec, Dataset], Task]] = {
    work.TEXT: NextToken,
    work.CHAT: Conversations,
    work.REINFORCE: Reinforcement,
}
OBJECTIVES: dict[str, Callable[[RunSpec], Objective]] = {
    work.TEXT: lambda spec: TextLoss(),
    work.CHAT: ChatLoss,
    work.REINFORCE: PolicyLoss,
}
FORMS: dict[str, Callable[[RunSpec], ChatForm]] = {
    work.CHAT: lambda spec: ChatForm(spec.model.sequence)
}
"""Of a kind of task whose data are not texts: how rows become tokens."""

Make = Callable[[RunSpec, PretrainedConfig, Task, str], Learner]
"""(specification, the model's configuration, task, device) -> learner."""
Fits = Callable[[RunSpec, str], bool]
"""(specification, device) -> whether a learner is the one for this run on this machine."""


class Kind(NamedTuple):
    """A kind of learner, and when it is chosen."""

    make: Make
    fits: Fits


LEARNERS: dict[str, Kind] = {"single": Kind(SingleDevice, lambda spec, device: True)}
"""The last one that fits is taken."""


def register_learner(name: str, make: Make, fits: Fits = lambda spec, device: True) -> None:
    """Add a learner of one's own in this process; it goes before those that are there already. The
    same name again replaces it."""
    LEARNERS.pop(name, None)
    LEARNERS[name] = Kind(make, fits)


@contextmanager
def instead(name: str, make: Make) -> Iterator[None]:
    """Inside, learners are made by `make` where they would be of the kind "single". Raises ModelError for one where a
    user's own learner would be taken."""

    def guarded(spec: RunSpec, config: PretrainedConfig, task: Task, device: str) -> Learner:
        own = next(n for n, kind in reversed(before.items()) if kind.fits(spec, device))
        if own != "single":
            raise ModelError(
                f"the learner {own!r} of a plug-in works in one process; use --processes 1"
            )
        return make(spec, config, task, device)

    before = dict(LEARNERS)
    register_learner(name, guarded)
    try:
        yield
    finally:
        del LEARNERS[name]


def prepare(
    spec: RunSpec, base: Path, cache: Path, report: Report | None = None, router: Path | None = None
) -> Dataset:
    """The data of a run (duckweed.learn.data.preparation.prepare). router: file of the one of its family, if the run
    trains a path. Raises DataError."""
    if isinstance(spec.task, Reinforce):
        return problems.prepare(spec, base, cache)
    form = FORMS.get(work.kind_of(spec))
    whole = preparation.prepare(spec.data, base, cache, report, form(spec) if form else None)
    if spec.path is None:
        return whole
    return routed.prepare(whole, _router(spec, router), spec.model.sequence, spec.path, cache)


def _router(spec: RunSpec, file: Path | None) -> Router:
    """The router of a path's family. Raises DataError."""
    assert spec.branch is not UNSET
    wanted = spec.branch.router
    try:
        router = Router.from_bytes(file.read_bytes() if file else b"")
    except (OSError, DataError) as error:
        raise DataError(
            f"the router of this run's family ({wanted[:16]}) is not here or cannot be read: {error}; it is the "
            "file `router` of the family's folder"
        ) from error
    if router.digest() != wanted:
        raise DataError(
            f"{file}: does not hash right: this run's family has router {wanted[:16]}, and this is "
            f"{router.digest()[:16]}. It would give this path other text; copy the file `router` of the family "
            "here again"
        )
    return router


def task(spec: RunSpec, dataset: Dataset) -> Task:
    """The task of a run."""
    return TASKS[work.kind_of(spec)](spec, dataset)


def objective(spec: RunSpec) -> Objective:
    """The loss of a run's task, for a process that has no data."""
    return OBJECTIVES[work.kind_of(spec)](spec)


def learner(spec: RunSpec, config: PretrainedConfig, dataset: Dataset, device: str) -> Learner:
    """The learner of a run on this machine. config: of the model, which is built here; its first
    weights are of no account. Raises ModelError."""
    kind = next(kind for kind in reversed(LEARNERS.values()) if kind.fits(spec, device))
    return kind.make(spec, config, task(spec, dataset), device)
