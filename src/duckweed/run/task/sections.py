"""Section `[task]`: what a run trains its model to do. One struct for each kind (docs/reason.md)."""

import re
from typing import Any, Literal

import msgspec

from duckweed.run.sections import check

Setting = bool | int | float | str | list[Any]


class Text(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="text"):
    """To continue texts. What is meant where there is no such section."""


class Chat(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="chat"):
    """To say what the assistant says in conversations."""

    packing: bool = True
    """Whether a sequence holds several conversations, none of which sees another."""


class Environment(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A source of problems, `[task.environments.NAME]`."""

    name: str = ""
    """An environment of reasoning-gym, or one of one's own; "": as the section is called."""
    weight: float = 1.0
    """How often its problems come, compared with the others."""
    settings: dict[str, Setting] = {}
    """Its own settings, such as how difficult the problems are."""

    def __post_init__(self) -> None:
        check("task.environments", "weight", self.weight, 1e-6, 1e6)


class Reinforce(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="reinforce"
):
    """To solve problems whose answers can be checked. Without environments the problems are the rows of
    `data.path`, each with a question and its answer."""

    environments: dict[str, Environment] = {}
    """Where problems come from, by a name of one's own."""
    question: str = "question"
    """Of rows: the field with the question."""
    answer: str = "answer"
    """Of rows: the field with the answer."""
    verifier: Literal["exact", "regex", "math"] = "exact"
    """Of rows: an answer must be the same text; must be matched as a whole by the regular expression; or must
    have the same value (math-verify, an extra)."""
    system: str = ""
    """What the model is told before each question; "": nothing."""
    marker: str = "Answer:"
    """The answer is what stands behind the last of these in what the model writes; "": all of it."""
    samples: int = 8
    """Answers that are written to each problem: a group."""
    tokens: int = 64
    """Of an answer, at most; it must fit into `model.sequence` behind its question."""
    temperature: float = 1.0
    """Of the sampling, and of the probabilities that are trained."""
    ratio: Literal["mask", "cispo"] = "mask"
    """How the ratio of probabilities, now to when a token was written, is kept from doing harm: tokens that have
    moved further than `trust` are left out (DPPO), or the weight of a token is at most `bound` (CISPO)."""
    trust: float = 0.2
    """Of "mask": how far the probability of a token may have moved, in the direction that its advantage asks for, until
    it is not moved further."""
    pull: float = 0.001
    """Factor of the squared logarithm of the ratio, which holds the model near the one that wrote."""
    bound: float = 5.0
    """Of "cispo": the most that a token weighs, as a multiple of one whose probability has not moved."""
    kl: float = 0.0
    """Factor of the divergence from the weights that the run began from. They are kept in memory, and what is written is
    read once by them; 0: neither."""
    deviation: bool = False
    """Whether the advantages of a group are divided by their standard deviation."""
    seconds: float = 2.0
    """That the check of one answer may take; after that it counts as wrong."""
    writers: int | msgspec.UnsetType = msgspec.UNSET
    """Of the `rounds.peers` that the run begins with, how many only write answers, the last ones of their machine. Unset:
    none. Not a default, so that runs which do not name it keep their identity."""
    staleness: int | msgspec.UnsetType = msgspec.UNSET
    """Rounds that a peer that only writes has for its answers, and after which others learn from them. Unset: 1."""

    @property
    def lag(self) -> int:
        """`staleness`, where it is not named too."""
        return 1 if self.staleness is msgspec.UNSET else self.staleness

    def __post_init__(self) -> None:
        for name, low, high in (
            ("samples", 2, 4096), ("tokens", 1, 1 << 20), ("temperature", 0.01, 100),
            ("trust", 0, 1), ("bound", 1, 1e6), ("pull", 0, 100), ("kl", 0, 100),
            ("seconds", 0.01, 3600),
        ):  # fmt: skip
            check("task", name, getattr(self, name), low, high)
        if self.writers is not msgspec.UNSET:
            check("task", "writers", self.writers, 0, 10_000)
        check("task", "staleness", self.lag, 1, 64)
        for name in self.environments:
            if not re.fullmatch("[A-Za-z0-9_-]{1,64}", name):
                raise ValueError(
                    f"task.environments: {name!r} is no name; expected letters, digits, - and _"
                )

    def check_fits(self, batch: int, sequence: int) -> None:
        """Raises ValueError where answers do not fit into batches and sequences."""
        if batch % self.samples:
            raise ValueError(
                f"inner.batch = {batch}: must be a multiple of task.samples = {self.samples}, because a group "
                "of answers to one problem is not divided"
            )
        if self.tokens >= sequence:
            raise ValueError(
                f"task.tokens = {self.tokens}: must be less than model.sequence = {sequence}, which holds the "
                "question and the answer"
            )


TASKS: dict[str, type[msgspec.Struct]] = {"text": Text, "chat": Chat, "reinforce": Reinforce}
"""Kind -> its section."""
