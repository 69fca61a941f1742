"""Planning for a run that exists: its model, its sizes on the wire, and the times it measured."""

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

from duckweed.learn.model.presets import PRESETS
from duckweed.plan.device import by_hand as device_by_hand
from duckweed.plan.errors import PlanError
from duckweed.plan.exchange import Wire
from duckweed.plan.inputs import assumptions
from duckweed.plan.inputs import crowd as crowds
from duckweed.plan.inputs.config import read as read_config
from duckweed.plan.inputs.crowd import Crowd, Group
from duckweed.plan.inputs.models import Model, by_hand, from_config
from duckweed.plan.inputs.request import Question, Request, deadline
from duckweed.plan.place import Layout
from duckweed.plan.search import Space, Target, evaluate
from duckweed.run import folder as folders
from duckweed.run import units
from duckweed.run.events import RoundClosed
from duckweed.run.spec import RunSpec
from duckweed.run.spec import load as load_spec

PLENTY = 1e13
"""Bytes given to machines of which only speed and link were measured: memory is not what is asked."""
FASTEST = 1e12
"""bit/s where a transfer was too short to measure."""


@dataclass(frozen=True)
class Measured:
    """A run in numbers: medians over its rounds and peers."""

    parameters: int
    peers: int
    steps: int
    """Inner steps in a round."""
    step: float
    """Seconds of an inner step."""
    up_bits: float
    """Bits a parameter that a peer sends in a round."""
    down_bits: float
    """Bits a parameter that a peer fetches in a round."""
    coding: float
    """Seconds a round to write, read and apply contributions."""
    up: float
    """bit/s."""
    down: float
    """bit/s."""
    delay: float = 0.0
    """Seconds one way."""
    seconds: float = 0.0
    """Of a round as it was; 0: not known."""
    rounds: int = 0
    """Rounds that were measured."""


@dataclass(frozen=True)
class Predicted:
    """Seconds of a round and of its parts, as the planner has them."""

    seconds: float
    window: float
    exchange: float


def predict(run: Measured) -> Predicted:
    """The planner's round for a run like this: whole replicas, exchange after the steps, alike peers. A peer that is
    alone exchanges with its coordinator as others do, where the planner's lone machine exchanges nothing."""
    flop, peers = 6.0 * run.parameters, max(2, run.peers)
    model = replace(tiny(run.parameters), flop=flop, context=1)
    card = device_by_hand(PLENTY, flop / run.step, "cpu", "as measured")
    group = Group(peers, card, host=PLENTY, up=run.up, down=run.down, latency=run.delay, stay=1e15)
    share = run.parameters / model.shape.total  # below 1: the planner knows no model so small
    coding = run.coding / model.shape.total * 1e9
    values = assumptions.medians(**nominal(), mfu_cpu=1.0, coding=coding)
    wire = Wire("as measured", "dense", run.up_bits * share)
    space = Space((Layout(),), ((wire, "store"),), (run.steps,), (False,), (1,), (math.inf,))
    terms = evaluate(Target(model, 1.0), Crowd((group,)), space, values).pools[0].terms
    window = float(terms["window"].ravel()[0])
    fetched = run.parameters * run.down_bits / run.down
    same = float(terms["download"].ravel()[0])
    exchange = float(terms["exchange"].ravel()[0]) - same + fetched
    return Predicted(window + exchange, window, exchange)


def nominal() -> dict[str, float]:
    """Assumptions under which links and machines are exactly what was measured."""
    one = (
        "link_share",
        "latency_factor",
        "online_factor",
        "stay_factor",
        "bits_factor",
        "traffic_factor",
        "replica_factor",
        "wire_factor",
    )
    return {**dict.fromkeys(one, 1.0), "straggle": 0.0, "audit": 0.0, "detect": 0.0}


def tiny(parameters: int) -> Model:
    return by_hand("as measured", max(1e6, float(parameters)), max(1e6, float(parameters)))


def read(path: Path, request: Request) -> Question:
    """Target, crowd and assumptions from a run's folder. Of the request only crowd, tokens and
    deadline count, and what it leaves out is as in the run: its own peers, all of its rounds.

    Raises PlanError if the folder holds no run or no round has closed yet.
    """
    try:
        found = folders.find(path)
        spec = load_spec(found.spec)
    except ValueError as error:
        raise PlanError(str(error)) from error
    records = list(found.records(RoundClosed))
    if not records:
        raise PlanError(
            f"{found.path}: no round has closed yet, so nothing is measured. Plan with --model and "
            "--crowd, or wait for the first round."
        )
    model = model_of(found, spec)
    run = measure(spec, model.shape.total, records)
    amount = float(spec.total_steps * spec.tokens_per_step * spec.rounds.peers)
    if request.tokens:
        amount = units.count(request.tokens, "tokens").value
    optimizer = "adamw" if spec.inner.optimizer == "adamw" else "muon"
    precision = "fp32" if spec.inner.precision == "fp32" else "bf16"
    target = Target(model, amount, precision, optimizer, deadline(request.deadline))
    notes = describe(found, spec, run)
    if request.crowd:
        return Question(target, crowds.read(request.crowd), {}, notes)
    rate = model.flop_per_token * spec.tokens_per_step / run.step
    card = device_by_hand(PLENTY, rate, "cpu", "as measured")
    people = Group(
        run.peers, card, host=PLENTY, up=run.up, down=run.down, latency=run.delay, stay=1e15
    )
    fixed = {**nominal(), "mfu_cpu": 1.0, "coding": run.coding / model.shape.total * 1e9}
    del fixed["replica_factor"], fixed["wire_factor"]
    return Question(target, Crowd((people,)), fixed, notes)


def model_of(found: folders.RunFolder, spec: RunSpec) -> Model:
    """The run's model: its exported configuration, or a preset with the vocabulary of its layout."""
    context = spec.model.sequence
    if (found.model / "config.json").is_file():
        return Model(replace(read_config(found.model), name=spec.model.source), context)
    layout = json.loads((found.path / "layout.json").read_text("utf-8"))
    shapes = dict(zip(layout["names"], layout["shapes"], strict=True))
    table = next(
        (shape for name, shape in shapes.items() if "embed" in name and len(shape) == 2), None
    )
    if spec.model.source in PRESETS and table is not None:
        return from_config(
            {**PRESETS[spec.model.source], "vocab_size": table[0]}, spec.model.source, context
        )
    total = float(sum(math.prod(shape) for shape in shapes.values()))
    return by_hand(spec.model.source, total, total, context=context)


def measure(spec: RunSpec, parameters: int, records: list[RoundClosed]) -> Measured:
    """Medians over the rounds and peers of a run's metrics; where rounds are not alike, of its steps."""
    rounds = spec.schedule
    step = median(
        times.get("train", 0.0) / rounds.steps_of(record.round)
        for record in records
        for times in record.timings.values()
    )
    usual = max(1, round(rounds.steps / rounds.rounds))
    timings = [times for record in records for times in record.timings.values()]
    sent = [size for record in records for size in record.contribution_bytes]
    fetched = [record.update_bytes or sum(record.contribution_bytes) for record in records]

    def phase(*names: str) -> float:
        return median(sum(times.get(name, 0.0) for name in names) for times in timings)

    def speed(size: float, name: str) -> float:
        seconds = phase(name)
        return min(FASTEST, size * 8 / seconds) if seconds > 0 else FASTEST

    peers = round(median(len(record.accepted) for record in records))
    return Measured(
        parameters,
        max(1, peers),
        usual,
        step,
        median(sent) * 8 / parameters,
        median(fetched) * 8 / parameters,
        phase("compress", "apply"),
        speed(median(sent), "send"),
        speed(median(fetched), "fetch"),
        0.0,
        usual * median(record.seconds / rounds.steps_of(record.round) for record in records),
        len(records),
    )


def describe(found: folders.RunFolder, spec: RunSpec, run: Measured) -> tuple[str, ...]:
    """What was measured, and the planner's round beside the real one."""
    ours = predict(run)
    left = max(0, spec.schedule.rounds - run.rounds)
    return (
        f"measured in {found.path.name}: a step {units.show_time(run.step)}, up {run.up_bits:.3g} and "
        f"down {run.down_bits:.3g} bits a parameter, {units.show_rate(run.up)} up, "
        f"{units.show_rate(run.down)} down, {units.show_time(run.coding)} a round for coding",
        f"a round took {units.show_time(run.seconds)}; the planner says {units.show_time(ours.seconds)} "
        f"({ours.seconds / run.seconds - 1:+.0%})",
        f"{run.rounds} of {spec.schedule.rounds} rounds done; the others as they went take "
        f"{units.show_time(left * run.seconds)}",
    )
