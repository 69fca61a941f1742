"""How fast a machine is at reinforcement learning with one model: measured where the model is
(duckweed.learn.tasks.pace), read by the planner, which knows no model."""

import msgspec


class Pace(msgspec.Struct, frozen=True):
    """Seconds of the parts of a step, and what answers are like. A token of an answer is written for all answers of
    a step at once, so that its time has a part that does not grow with their number."""

    position: float
    """Of writing one token, whatever the number of answers."""
    row: float
    """The same, for each answer."""
    past: float
    """The same, for each answer and each token before."""
    read: float
    """Of a token of a question, which is read once for all answers to it."""
    check: float
    """Of the check of one answer."""
    train: float
    """Of a token that is trained on; questions and what fills answers up to one length count."""
    fresh: float
    """The same, more in the first step of a round: memory was given back to the system after the round before."""
    step: float
    """Of an optimizer step, and of a training pass whatever its tokens."""
    question: float
    """Tokens of a question with what is around it, in the mean."""
    filled: float
    """Length of the longest answer, as a share of its limit: until then all are written on."""
    spread: float
    """Share of the groups that have spread, and so are trained on. 0: none had, so that nothing is known."""
