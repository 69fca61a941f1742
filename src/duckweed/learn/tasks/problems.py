"""The problems of a run: drawn from its environments, and asked in the form of the tokenizer's chat template."""

import itertools
import json
import logging
from collections.abc import Iterable, Iterator
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from duckweed.learn.data import tokenizer as tokenizers
from duckweed.learn.data.chat import Conversation, Template
from duckweed.learn.data.corpus import documents
from duckweed.learn.data.dataset import (
    FORMAT,
    HELD_OUT,
    MANIFEST,
    TOKENIZER,
    TRAIN,
    Dataset,
    Manifest,
    position,
    tokens_hash,
)
from duckweed.learn.data.permutation import derive
from duckweed.learn.data.preparation import cache_key, cached
from duckweed.learn.data.reading import DataError, Reading
from duckweed.learn.data.tokenizer import Tokenizer
from duckweed.learn.tasks.environments import LIBRARY, check_answer, problem_of
from duckweed.learn.tasks.verifier import Verifier, VerifierFailed
from duckweed.run import plugins
from duckweed.run.spec import RunSpec
from duckweed.run.task.rollouts import RIGHT
from duckweed.run.task.sections import Environment, Reinforce

if TYPE_CHECKING:  # rewards are checked where there is no torch
    from duckweed.learn.tasks.rollout import Answers

log = logging.getLogger(__name__)
ROWS = "problems.json"
SHOWN = 48  # problems of each side that are written down: peers compare them before they take part
SIDES = {False: 1, True: 2}  # keys of `derive`
UNIT = 2.0**64


class Problem(NamedTuple):
    """One problem."""

    environment: int
    number: int
    question: str
    answer: str


class Problems:
    """The problems of a task. rows: question and answer of each, where it has no environments."""

    def __init__(
        self, task: Reinforce, seed: int, share: float, rows: list[tuple[str, str]] | None = None
    ) -> None:
        self.task, self.seed = task, seed
        self.names = list(task.environments) or ["rows"]
        found = task.environments or {"rows": Environment()}
        weights = np.array([one.weight for one in found.values()])
        self._shares = np.cumsum(weights / weights.sum())
        named = [(one.name or label, one.settings) for label, one in task.environments.items()]
        self.verifier = Verifier(
            named, (rows, task.verifier) if rows else None, plugins.loaded(), task.seconds, share
        )
        self.failed = 0
        """Checks that raised or took too long."""
        self.at = lru_cache(8192)(self._at)

    def _at(self, place: int, held_out: bool) -> Problem:
        """The problem at a place of the endless row of one side. Those that are held out are the same in every
        run. Raises DataError."""
        key = derive(0 if held_out else self.seed, SIDES[held_out], place)
        which = int(np.searchsorted(self._shares, derive(key, 1) / UNIT, side="right"))
        which = min(which, len(self.names) - 1)
        return Problem(which, *self.verifier.draw(which, key, held_out))

    def conversation(self, problem: Problem) -> Conversation:
        """What the model is told and asked."""
        told: Conversation = [("system", self.task.system)] if self.task.system else []
        return [*told, ("user", problem.question)]

    def score(self, problem: Problem, text: str) -> float:
        """From 0 to 1, of what the model has written; 0 where there is no answer in it, or the check fails."""
        answer = answer_of(text, self.task.marker)
        if answer is None:
            return 0.0
        try:
            score = self.verifier.score(problem.environment, problem.number, answer)
        except VerifierFailed as error:
            self.failed += 1
            if self.failed == 1:
                log.warning("the check of %r failed, which counts as wrong: %s", answer[:60], error)
            return 0.0
        return min(1.0, max(0.0, score)) if score == score else 0.0


class Wording:
    """Conversations as tokens for a model to go on from, and what it wrote as text."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer, self.template = tokenizer, Template(tokenizer)
        self.stops = self.template.stops(tokenizer)

    def prompt(self, conversation: Conversation) -> list[int]:
        text = self.template.render(conversation, ask=True)
        return [int(x) for x in self.tokenizer.encode_marked([text])[0]]

    def text(self, ids: NDArray[np.int64]) -> str:
        """What was written, without what ended it."""
        return self.tokenizer.decode([x for x in ids.tolist() if x not in self.stops])

    def texts(self, answers: "Answers") -> list[str]:
        """The same of several answers."""
        return [
            self.text(ids[:length])
            for ids, length in zip(answers.ids, answers.lengths, strict=True)
        ]


def places(spec: RunSpec, block: int, steps: Iterable[int]) -> Iterator[int]:
    """Of the problems of some inner steps of a block, in the row of those to train on."""
    assert isinstance(spec.task, Reinforce)
    each = spec.inner.batch // spec.task.samples
    for step in steps:
        first = position(block, step, spec.inner.steps, each)
        yield from range(first, first + each)


def answer_of(text: str, marker: str) -> str | None:
    """The answer in what was written; None: it has none."""
    if not marker:
        return text.strip()
    _, found, answer = text.rpartition(marker)
    return answer.strip() if found else None


def right(score: float) -> bool:
    return score >= RIGHT


def rows_of(dataset: Dataset) -> list[tuple[str, str]] | None:
    """Question and answer of each row; None where the problems come from environments."""
    path = dataset.folder / ROWS
    return [(q, a) for q, a in json.loads(path.read_text("utf-8"))] if path.is_file() else None


def of(spec: RunSpec, dataset: Dataset) -> Problems:
    """The problems of a run."""
    assert isinstance(spec.task, Reinforce)
    return Problems(spec.task, spec.seed, spec.data.held_out, rows_of(dataset))


def prepare(spec: RunSpec, base: Path, cache: Path) -> Dataset:
    """A data set with the tokenizer, some problems of each side as text, and all rows where there are no
    environments. Raises DataError."""
    task = spec.task
    assert isinstance(task, Reinforce)
    data = spec.data
    if task.environments:
        data = msgspec.structs.replace(data, path="stdlib")
    more = ["problems", msgspec.to_builtins(task), spec.model.sequence, spec.seed, _versions()]
    return cached(cache_key(data, base, more), cache, lambda part: _write(spec, base, part))


def _versions() -> list[str]:
    """Of what makes the problems here."""
    try:
        library = version(LIBRARY)
    except PackageNotFoundError:
        library = ""
    return [library, *(blake3(Path(path).read_bytes()).hexdigest() for path in plugins.loaded())]


def _write(spec: RunSpec, base: Path, part: Path) -> None:
    task = spec.task
    assert isinstance(task, Reinforce)
    rows, reading = None, Reading()
    if not task.environments:
        of_row = problem_of(task.question, task.answer)
        found = (json.loads(text) for text in documents(spec.data, base, reading, of_row))
        rows = [(str(question), str(answer)) for question, answer in found]
        for question, answer in rows:
            check_answer(task.verifier, answer, question)
        (part / ROWS).write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    problems = Problems(task, spec.seed, spec.data.held_out, rows)
    try:
        sides = [[problems.at(place, held_out) for place in range(SHOWN)] for held_out in SIDES]
    finally:
        problems.verifier.close()
    texts = [[f"{x.question}\n{x.answer}" for x in side] for side in sides]
    tokenizer = _tokenizer(spec, base, list(itertools.chain(*texts)))
    tokenizer.save(part / TOKENIZER)
    _check_lengths(spec, tokenizer, problems, sides[0])
    counts = []
    for name, side in zip((TRAIN, HELD_OUT), texts, strict=True):
        ids = [[*x.tolist(), tokenizer.end] for x in tokenizer.encode(side)]
        flat = np.array(list(itertools.chain(*ids)), tokenizer.dtype)
        (part / name).write_bytes(flat.tobytes())
        counts.append((len(side), sum(len(x.encode()) for x in side), len(flat)))
    where = ", ".join(problems.names) if task.environments else f"{len(rows or ()):,} rows"
    digest = blake3(json.dumps(rows or texts).encode()).hexdigest()
    manifest = Manifest(
        FORMAT, digest, tokens_hash(part), spec.data.tokenizer, tokenizer.hash, tokenizer.size,
        tokenizer.dtype.name, "problems", 2 * SHOWN, *counts[0], *counts[1],
        dict(sorted(reading.left_out.items())), reading.files, reading.examples, reading.limited,
        problems=f"problems of {where}, {spec.data.held_out:.3g} of them held out; such as "
        f"{sides[0][0].question.strip().splitlines()[0][:80]!r}",
    )  # fmt: skip
    (part / MANIFEST).write_bytes(msgspec.json.format(msgspec.json.encode(manifest), indent=2))


def _tokenizer(spec: RunSpec, base: Path, texts: list[str]) -> Tokenizer:
    size = tokenizers.bpe_size(spec.data.tokenizer)
    found = (
        tokenizers.train_bpe(texts, size) if size else tokenizers.load(spec.data.tokenizer, base)
    )
    found.give_template(Template(found).text)
    return found


def _check_lengths(
    spec: RunSpec, tokenizer: Tokenizer, problems: Problems, shown: list[Problem]
) -> None:
    """Raises DataError if most questions leave no room for an answer."""
    assert isinstance(spec.task, Reinforce)
    wording, room = Wording(tokenizer), spec.model.sequence - spec.task.tokens
    lengths = sorted(len(wording.prompt(problems.conversation(x))) for x in shown)
    if lengths[len(lengths) // 2] > room:
        raise DataError(
            f"questions are longer than the context: half of them have more than {lengths[len(lengths) // 2]} "
            f"tokens, and model.sequence - task.tokens = {room}; raise model.sequence, lower task.tokens, or make "
            "the problems shorter with task.environments.NAME.settings"
        )
