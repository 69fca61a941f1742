"""The specification of who has none: what `duckweed train` does without a file, and `duckweed new` writes down."""

from collections.abc import Mapping

from duckweed.run.spec import RunSpec, override

RECIPE: dict[str, object] = {"inner.batch": 4, "inner.steps": 40}
"""How it trains: what came out best at as many tokens and bytes (docs/parity.md)."""
CODES: dict[str, object] = {
    "wire.levels": 3, "wire.threshold": 1.5, "wire.value": 2.1, "inner.residual": 0.4,
}  # fmt: skip
"""What it sends, likewise, over the integer wire, and how much of what was not sent a peer trains on with. Not in open
runs: what strangers can do was measured without, with codes of one level (docs/merge.md), and a code of 2 is twice as
large a step."""
BUDGET: dict[str, object] = {"rounds.saving": 170.0, "rounds.evaluate": 12}
"""And its rounds, if the user does not name them either: many short ones, measured as seldom, in tokens, as 13 rounds of
40 steps would be."""
SIZE = 1.07e6
"""Parameters of the model that the rate was fitted to first, and that one of unknown size is taken for."""
SIZES = {
    "llama-0.5m": 0.51e6, "llama-0.6m": 0.67e6, "llama-1m": SIZE, "llama-15m": 14.4e6, "llama-125m": 114e6,
    "llama-1b": 974e6, "qwen3-0.6b": 441e6, "deepseek-v3-mini": 2.3e6,
}  # fmt: skip
"""Those of the models that duckweed knows by name, over bytes."""
WARMUP = 40  # steps, and of a short run at most a tenth of them


def start(changes: Mapping[str, object]) -> RunSpec:
    """The specification of who has none, with dotted keys set. Its rounds follow from a budget of bytes,
    unless the changes say how many rounds there are or how long each is, or name another wire; its learning rate from
    how long it is. Raises SpecError."""
    own = changes.keys() & {"rounds.count", "inner.steps", "wire.kind"}
    budget = {} if own else BUDGET
    if changes.get("task.kind") == "reinforce":  # whose steps are of answers: the recipe is of text
        usual = {} if own else {"rounds.saving": 100.0}  # 51 rounds of half as many steps
        return override(RunSpec(), budget | usual | dict(changes))
    given = RECIPE | _codes(changes) | budget | dict(changes)
    found = override(RunSpec(), given | {"inner.warmup": 0})
    steps, tokens = found.total_steps, found.rounds.peers * found.tokens_per_step
    own_length = {
        "inner.learning_rate": rate(steps, tokens, SIZES.get(found.model.source, SIZE)),
        "inner.warmup": min(WARMUP, steps // 10),
        "inner.guide": guide(steps / found.schedule.rounds),
    }
    return override(RunSpec(), own_length | given)


def _codes(changes: Mapping[str, object]) -> dict[str, object]:
    open_to_all = changes.get("members.join") == "open"
    return {} if open_to_all or changes.get("wire.kind", "integer") != "integer" else CODES


def rate(steps: int, tokens: int, parameters: float = SIZE) -> float:
    """The peak of the learning rate for a run of so many inner steps of a peer, in each of which all peers together
    read so many tokens, of a model of so many parameters. Fitted to the best of several rates with Muon at 260 to 6,000
    steps of 512 to 4,096 tokens, and 0.2 to 15 million parameters (docs/parity.md, "The learning rate")."""
    length = (520 / max(steps, 100)) ** 0.4
    return float(f"{0.007 * length * (tokens / 2048) ** 0.15 * (SIZE / parameters) ** 0.25:.2g}")


def guide(steps: float) -> float:
    """How far momenta turn to the last merged step, for rounds of so many inner steps. A merged step of few steps is
    mostly noise, and a momentum that is turned to it every few steps is little else. Fitted to the best of several at 5 to
    20 steps (docs/parity.md, "The guide")."""
    return float(f"{min(0.1, 0.004 * steps):.1g}")
