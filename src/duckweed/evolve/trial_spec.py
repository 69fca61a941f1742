"""A trial that a campaign asks for, what came of it, and the proposals that lead to trials."""

import math
from typing import Literal

import msgspec
from blake3 import blake3

Value = bool | int | float | str
Recipe = dict[str, Value]
"""What differs from the campaign's plain specification: registry keys and their values."""
Split = Literal["select", "vault"]
"""The held-out text of a trial: for selection, or for the final comparison ("vault" on disk)."""
Provenance = Literal["known", "adapted", "novel"]
"""Of a proposal: published, derived from what was tried, or neither."""


class TrialSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One training run. Ledgers and messages call it a cell."""

    recipe: Recipe
    seed: int  # of weights and order of the data
    budget: float  # training FLOPs at most
    size: int = 1  # times the parameters of generation 0
    split: Split = "select"  # the text on which it is measured

    @property
    def id(self) -> str:
        """32 hex digits: the same trial is run once in a campaign, and again only to check it."""
        return digest(self)


class TrialResult(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a trial gave, as evaluator and pool found it."""

    loss: float | None  # held-out bits per byte; None where the run diverged or was refused
    flops: float  # training and evaluation, as counted here
    tokens: int = 0  # trained on
    parameters: int = 0
    seconds: float = 0.0
    weights: str = ""  # blake3 of the exported weights
    worker: int = 0  # number of the worker that trained
    reason: str = ""  # why there is no loss
    sent: int = 0  # bytes of contributions of the busiest peer, where a trial has several
    fetched: int = 0  # bytes of updates that each peer fetches

    @property
    def value(self) -> float:
        """The loss as a number: inf for a run that failed."""
        return math.inf if self.loss is None else self.loss


class Proposal(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A difference to the parent's recipe; empty: the parent against itself."""

    number: int  # counted over the campaign
    difference: Recipe
    proposer: str
    provenance: Provenance = "novel"
    commitment: str = ""  # seals what kind of proposal it is (`space.commitments`)


def digest(value: object) -> str:
    """blake3 of the canonical JSON form, 32 hex digits."""
    return blake3(msgspec.json.encode(value, order="deterministic")).hexdigest(16)


def seed_of(*parts: object) -> int:
    """A seed in [0, 2^62) that everyone draws alike from public words, such as a ledger's head."""
    return int.from_bytes(blake3(msgspec.json.encode(parts)).digest(8), "big") >> 2
