"""What a person asks, and the target and crowd that it comes to."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from duckweed.plan.errors import PlanError
from duckweed.plan.inputs import assumptions, models
from duckweed.plan.inputs import crowd as crowds
from duckweed.plan.inputs.crowd import Crowd
from duckweed.plan.inputs.models import Model
from duckweed.plan.penalty import PER_PARAMETER
from duckweed.plan.place import states
from duckweed.plan.search import Target
from duckweed.run import units

EXAMPLE = (
    "duckweed plan --model llama-3-8b "
    "--crowd '1000x rtx4090 @ 20/100 Mbps 40ms, 60% online, 6h' --tokens 200B"
)


@dataclass(frozen=True)
class Request:
    """What a person asks, in the words of the command line."""

    model: str = ""
    """A preset, a config.json, a model folder, dense-7B or moe-671B-37B."""
    crowd: str = ""
    """A line such as `100x rtx4090 @ 20/100 Mbps 40ms`, or the path of a TOML file."""
    tokens: str = ""
    """`14.8T`, `optimal`, or empty: as published."""
    deadline: str = ""
    precision: str = "bf16"
    optimizer: str = "adamw"
    context: int = 0
    """Tokens of a sequence; 0: the model's own."""
    assume: tuple[str, ...] = ()
    """`name=value` for uncertain inputs."""
    hub: str = ""
    """Link of the store or hub; empty: unlimited."""


@dataclass(frozen=True)
class Question:
    """A request that was understood."""

    target: Target
    crowd: Crowd
    fixed: dict[str, float]
    """Uncertain inputs that are given, by name."""
    notes: tuple[str, ...] = ()
    """How the request was read, where it left a choice."""


def read(request: Request) -> Question:
    """Raises PlanError, and UnitError for a quantity that cannot be read."""
    missing = [f"--{name}" for name in ("model", "crowd") if not getattr(request, name)]
    if missing:
        raise PlanError(f"{' and '.join(missing)} is missing. For example: {EXAMPLE}")
    states(request.precision, request.optimizer)
    model = models.find(request.model, request.context or None)
    tokens, notes = token_count(model, request.tokens)
    limit = deadline(request.deadline)
    people = crowds.read(request.crowd)
    if request.hub:
        hub = units.rate(request.hub, "hub")
        people = replace(people, hub=hub.value)
        notes += (hub.said,) if hub.said else ()
    target = Target(model, tokens, request.precision, request.optimizer, limit)
    return Question(target, people, fixed_values(request.assume), notes)


def deadline(text: str) -> float | None:
    """Seconds; None where nothing is said."""
    if not text:
        return None
    seconds = units.duration(text, "deadline").value
    if seconds <= 0:
        raise PlanError(f"deadline: {text!r} must be positive, such as 90 days.")
    return seconds


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


def fixed_values(assume: Sequence[str]) -> dict[str, float]:
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
