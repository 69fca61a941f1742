"""From the words of a request to a target and a crowd."""

from dataclasses import replace

from duckweed.plan import assumptions, models
from duckweed.plan import crowd as crowds
from duckweed.plan.crowd import Crowd
from duckweed.plan.errors import PlanError
from duckweed.plan.models import Model
from duckweed.plan.penalty import PER_PARAMETER
from duckweed.plan.place import states
from duckweed.plan.search import Target
from duckweed.run import units

Parsed = tuple[Target, Crowd, dict[str, float], tuple[str, ...]]


def read(
    model: str, crowd: str, tokens: str, deadline: str, precision: str, optimizer: str, context: int,
    assume: list[str], hub: str = "",
) -> Parsed:  # fmt: skip
    """Target, crowd, fixed assumptions and how things were read. Raises PlanError."""
    if not model or not crowd:
        missing = " and ".join(
            f"--{name}" for name, text in (("model", model), ("crowd", crowd)) if not text
        )
        raise PlanError(
            f"{missing} is missing. For example: duckweed plan --model llama-3-8b "
            "--crowd '1000x rtx4090 @ 20/100 Mbps 40ms, 60% online, 6h' --tokens 200B"
        )
    states(precision, optimizer)
    found = models.find(model, context or None)
    amount, notes = token_count(found, tokens)
    limit = units.duration(deadline, "deadline").value if deadline else None
    if limit is not None and limit <= 0:
        raise PlanError(f"deadline: {deadline!r} must be longer than no time.")
    target = Target(found, amount, precision, optimizer, limit)
    people = crowds.read(crowd)
    if hub:
        read = units.rate(hub, "hub")
        people, notes = replace(people, hub=read.value), (*notes, read.said) if read.said else notes
    return target, people, fixed_values(assume), notes


def token_count(model: Model, text: str) -> tuple[float, tuple[str, ...]]:
    """Training tokens as asked, as published, or 20 a parameter."""
    optimal = PER_PARAMETER * model.shape.active
    if text == "optimal":
        return optimal, (f"tokens: 20 per active parameter, {units.show_count(optimal)}",)
    if text:
        return units.count(text, "tokens").value, ()
    if model.tokens:
        return model.tokens, (
            f"tokens: {units.show_count(model.tokens)}, as published for {model.name}",
        )
    return optimal, (
        f"tokens: none given or published, so 20 per active parameter, {units.show_count(optimal)}",
    )


def fixed_values(assume: list[str]) -> dict[str, float]:
    """`name=value` pairs as numbers; a percentage is a share."""
    fixed = {}
    for pair in assume:
        name, equals, text = pair.partition("=")
        if not equals:
            raise PlanError(f"--assume {pair!r}: write name=value, for example mfu_consumer=0.35.")
        number, unit = units.split(text, name)
        if unit not in ("", "%"):
            raise PlanError(f"--assume {pair!r}: give a plain number or a percentage.")
        fixed[name.strip()] = number / 100 if unit == "%" else number
    assumptions.medians(**fixed)
    return fixed
