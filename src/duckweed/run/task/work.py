"""How the work on a block is counted. The coordinator checks what peers say they did, without torch;
what makes the batches is in duckweed.learn.task.

A kind of task is one line in `EXPECTED`: the number of tokens of some inner steps, or bounds of
it where it depends on the training.
"""

from collections.abc import Callable

import msgspec

from duckweed.run.spec import RunSpec
from duckweed.run.task.sections import Reinforce

TEXT, CHAT, REINFORCE = "text", "chat", "reinforce"


class Expected(msgspec.Struct, frozen=True):
    """Bounds, both included, of the tokens that a peer may say it trained on."""

    least: int
    most: int


def kind_of(spec: RunSpec) -> str:
    """The kind of task of a run, `task.kind`."""
    return TEXT if spec.task is msgspec.UNSET else str(type(spec.task).__struct_config__.tag)


def writes(spec: RunSpec) -> bool:
    """Whether the model writes before it is trained, all of a block before the first inner step."""
    return kind_of(spec) == REINFORCE


def holds_start(spec: RunSpec) -> bool:
    """Whether the loss asks what the weights that the run began from say."""
    return isinstance(spec.task, Reinforce) and spec.task.kl > 0


def opening(spec: RunSpec) -> str:
    """With what a sample of a model begins: Python's own sources with a function, other text with nothing."""
    return "def " if spec.data.paths == ("stdlib",) and kind_of(spec) == TEXT else ""


def text_tokens(spec: RunSpec, steps: int) -> Expected:
    """Every inner step has `inner.batch` windows of `model.sequence` targets."""
    tokens = steps * spec.tokens_per_step
    return Expected(tokens, tokens)


def chat_tokens(spec: RunSpec, steps: int) -> Expected:
    """Every sequence has a target of the assistant's at least, and may have nothing else."""
    return Expected(steps * spec.inner.batch, steps * spec.tokens_per_step)


def written_tokens(spec: RunSpec, steps: int) -> Expected:
    """Every answer has a token at least, and `task.tokens` at most."""
    assert isinstance(spec.task, Reinforce)
    answers = steps * spec.inner.batch
    return Expected(answers, answers * spec.task.tokens)


EXPECTED: dict[str, Callable[[RunSpec, int], Expected]] = {
    TEXT: text_tokens,
    CHAT: chat_tokens,
    REINFORCE: written_tokens,
}


def expected(spec: RunSpec, steps: int) -> Expected:
    """Tokens of `steps` inner steps of a run."""
    return EXPECTED[kind_of(spec)](spec, steps)


def objection(spec: RunSpec, steps: int, tokens: int) -> str | None:
    """Why `steps` inner steps cannot have had that number of tokens; None if they can."""
    bounds = expected(spec, steps)
    if bounds.least <= tokens <= bounds.most:
        return None
    wanted = (
        f"{bounds.least}" if bounds.least == bounds.most else f"{bounds.least} to {bounds.most}"
    )
    return f"{steps} steps have {wanted} tokens, not {tokens}"
