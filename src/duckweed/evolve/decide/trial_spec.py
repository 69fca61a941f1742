"""A cell: one training run that the loop asks for, and what came of it."""

import math
from typing import Literal

import msgspec
from blake3 import blake3

Value = bool | int | float | str
Recipe = dict[str, Value]
"""What differs from the campaign's plain specification: registry keys and their values."""
Split = Literal["select", "vault"]


class Cell(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """recipe: what to train; seed: of weights and order of the data; budget: training FLOPs at
    most; size: times the parameters of generation 0; split: on which held-out text it is measured."""

    recipe: Recipe
    seed: int
    budget: float
    size: int = 1
    split: Split = "select"

    @property
    def id(self) -> str:
        """32 hex digits: the same cell is run once in a campaign, and again only to check it."""
        return digest(self)


class Result(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """loss: held-out bits per byte as the evaluator found it, None where the run diverged or the
    evaluator refused it (`reason`); flops: training and evaluation, as counted by the harness;
    weights: blake3 of the exported weights; worker: number of the process that trained; sent, fetched:
    bytes of the busiest peer, where a trial has several."""

    loss: float | None
    flops: float
    tokens: int = 0
    parameters: int = 0
    seconds: float = 0.0
    weights: str = ""
    worker: int = 0
    reason: str = ""
    sent: int = 0
    fetched: int = 0

    @property
    def value(self) -> float:
        """The loss as a number: inf for a run that failed."""
        return math.inf if self.loss is None else self.loss


class Proposal(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A difference to the parent's recipe; empty: the parent against itself. number: counted over
    the campaign; commitment: what is sealed about it (see `sealed`)."""

    number: int
    difference: Recipe
    proposer: str
    provenance: Literal["known", "adapted", "novel"] = "novel"
    commitment: str = ""


def digest(value: object) -> str:
    """blake3 of the canonical JSON form, 32 hex digits."""
    return blake3(msgspec.json.encode(value, order="deterministic")).hexdigest(16)


def seed_of(*parts: object) -> int:
    """A seed in [0, 2^62) that everyone draws alike from public words, such as a ledger's head."""
    return int.from_bytes(blake3(msgspec.json.encode(parts)).digest(8), "big") >> 2
