"""What the entries of a campaign's ledger say: one struct for each kind of entry (docs/evolve.md).

Kind and bytes are as in `duckweed.ledger.entries`. A number that is not finite is stored as null.
"""

from typing import Any, Literal

import msgspec

from duckweed.evolve.space.commitments import ProposalKind
from duckweed.evolve.space.signed_registry import RevealedPlant
from duckweed.evolve.statistics.multiplier import Multiplier
from duckweed.evolve.trial_spec import Proposal, Provenance, Recipe, TrialResult, TrialSpec
from duckweed.ledger.entries import Body


class CampaignEntry(Body, frozen=True, omit_defaults=True):
    """The first entry: which campaign it is. Fields with a default were not in the first format."""

    kind = "genesis"

    key: str
    """Public key that signs the ledger, hex."""
    settings: dict[str, Any] = msgspec.field(default_factory=dict)
    """`Settings` as it was when the campaign was made; its fields differ between formats."""
    plants: list[str] = msgspec.field(default_factory=list)
    """Commitments to all that can be planted (`RevealedPlant.commitment`), hex."""
    format: int = 0
    """What the words of this ledger mean (`duckweed.evolve.campaign.create.FORMAT`)."""
    made_with: dict[str, str | int] = msgspec.field(default_factory=dict)
    """Versions and settings that the bits of a trial depend on."""
    plain: str = ""
    """The specification of a trial as TOML, before any recipe."""
    registry: str = ""
    """Identity of the registry of switches, hex."""
    data: str = ""
    """blake3 of the text, hex."""
    tokens: str = ""
    """blake3 of the tokens that it gives, hex."""
    held: dict[str, Any] = msgspec.field(default_factory=dict)
    """How much text is held out for which purpose, as dealt when the campaign was made."""


class Tried(msgspec.Struct, frozen=True):
    """A recipe that was tried in tuning."""

    recipe: Recipe
    """The recipe."""
    losses: list[float | None]
    """Its losses, bits per byte; None: diverged."""


class TuningEntry(Body, frozen=True):
    """Generation 0 was tuned."""

    kind = "tuning"

    zero: Recipe
    """The best recipe."""
    tried: list[Tried]
    """All that were tried."""
    slope: float | None
    """What the loss falls by for e times the compute, bits per byte."""


class PilotEntry(Body, frozen=True):
    """The parent was compared with itself."""

    kind = "pilot"

    pairs: int
    """Pairs of runs."""
    sd: float
    """Standard deviation of their differences, bits per byte."""
    mean: float
    """Mean of their differences, bits per byte."""
    t: float | None
    """t statistic of the differences."""
    level: float
    """Level of the first test."""
    smallest: float
    """Effect that the first test finds in 8 of 10 cases, bits per byte."""
    smallest_multiplier: float
    """The same as a factor of compute."""
    spent: float
    """FLOPs of the campaign so far."""


class TrialEntry(Body, frozen=True):
    """A trial was run."""

    kind = "trial"

    cell: str
    """Identity of the trial."""
    what: TrialSpec
    """The trial, so that anybody can run it again."""
    result: TrialResult
    """What came of it."""
    purpose: str
    """"tuning", "pilot", "screening", "confirmation", "scale", "vault", "pruning" or "pace"."""


class CheckEntry(Body, frozen=True):
    """A trial of an accepted change was run again by another worker."""

    kind = "check"

    cell: str
    """Identity of the trial."""
    result: TrialResult
    """What came of it this time."""


class Declared(msgspec.Struct, frozen=True):
    """What a remote worker said of a trial."""

    weights: str
    """blake3 of the weights, hex."""
    loss: float | None
    """Loss, bits per byte; None: diverged."""


class AuditEntry(Body, frozen=True):
    """A trial of a remote worker was run again here."""

    kind = "audit"

    cell: str
    """Identity of the trial."""
    guest: int
    """Number of the remote worker."""
    theirs: Declared
    """What the remote worker said."""
    result: TrialResult
    """What came of it here."""


class FailureEntry(Body, frozen=True):
    """A worker ended before its trial did."""

    kind = "failure"

    cell: str
    """Identity of the trial."""
    reason: str
    """Why, in words."""


class GuestEntry(Body, frozen=True):
    """Something became known of a remote worker."""

    kind = "guest"

    key: str
    """Its public key, hex."""
    number: int
    """Its number among the workers."""
    expelled: bool
    """Whether it is never asked again."""
    reason: str
    """What became known, in words."""


class Refusal(msgspec.Struct, frozen=True):
    """A proposal that cannot be run."""

    proposer: str
    """Who made it."""
    reason: str
    """Why it was refused, in words."""


class ProposalsEntry(Body, frozen=True):
    """Changes to the parent were proposed."""

    kind = "proposals"

    proposals: list[Proposal]
    """Those that can be run."""
    refused: list[Refusal]
    """The others."""


class ScreenedProposal(msgspec.Struct, frozen=True):
    """How a proposal did in screening."""

    number: int
    """Number of the proposal."""
    share: float
    """Share of the reference budget at its last rung."""
    gain: float | None
    """How much lower its loss was than the parent's there, bits per byte; None: diverged."""


class ScreeningEntry(Body, frozen=True):
    """Proposals were screened."""

    kind = "screening"

    wave: int
    """Number of the screening."""
    asked: list[int]
    """Numbers of the proposals that were made for it."""
    screened: list[ScreenedProposal]
    """Those that were new."""
    winner: int | None
    """Number of the proposal that goes on; None: none was better than the parent."""


class AnnouncementEntry(Body, frozen=True):
    """How a proposal will be tested, before its seeds are drawn."""

    kind = "announcement"

    number: int
    """Number of the proposal."""
    parent: str
    """Digest of the parent's recipe."""
    child: str
    """Digest of the recipe with the change."""
    commitment: str
    """The proposal's seal."""
    test: str
    """Name of the test."""
    level: float
    """Its level."""
    margin: float
    """What the child must be better by, bits per byte."""
    pairs: int
    """Most pairs."""
    budget: float
    """FLOPs of each run."""


class DecisionEntry(Body, frozen=True):
    """A proposal was decided on."""

    kind = "decision"

    number: int
    """Number of the proposal."""
    verdict: Literal["accepted", "worse", "futile", "undecided"]
    """What the test says."""
    accepted: bool
    """Whether it is accepted, the check by another worker included."""
    checked: bool | None
    """Whether another worker reached the same weights; None: not asked."""
    differences: list[float | None]
    """Loss of the parent less that of the child, bits per byte; None: the child diverged."""
    parent_diverged: int
    """Pairs without use, in which the parent diverged."""
    e_value: float | None
    """Evidence against "no better"."""
    mean: float | None
    """Mean of the differences; None where a child diverged."""
    interval: tuple[float | None, float | None]
    """Confidence interval of the mean; None: that side is open."""
    inert: bool
    """Whether the change changes nothing at all."""
    spent: float
    """FLOPs of the campaign so far."""


class ScaleEntry(Body, frozen=True):
    """An accepted change was tried on a larger model."""

    kind = "scale"

    number: int
    """Number of the proposal."""
    size: int
    """Times the size of the model."""
    differences: list[float] | None
    """Loss of the parent less that of the child, bits per byte; None: a run diverged."""
    verdict: Literal["pass", "fades", "fails"]
    """Whether it still helps."""


class GenerationEntry(Body, frozen=True):
    """A change was adopted."""

    kind = "generation"

    generation: int
    """Number of the generation."""
    number: int
    """Number of the proposal."""
    difference: Recipe
    """The change."""
    proposer: str
    """Who proposed it."""
    provenance: Provenance
    """Where it comes from."""
    scale: str
    """Verdict of the larger model."""
    recipe: Recipe
    """The new parent."""
    spent: float
    """FLOPs of the campaign so far."""


class VaultEntry(Body, frozen=True):
    """The parent was compared with generation 0 on text that nothing was decided on."""

    kind = "vault"

    found: Multiplier | None
    """The result; None: there is none."""
    fault: str
    """Why there is none, in words."""
    spent: float
    """FLOPs of the campaign so far."""


class PruningEntry(Body, frozen=True):
    """Each adopted change was taken back on its own."""

    kind = "pruning"

    harm_without: dict[str, float | None]
    """Key -> mean loss without the change less that of the parent, bits per byte; None: diverged."""
    taken_back: str | None
    """The key that is as in generation 0 again; None: all stay."""
    recipe: Recipe
    """The new parent."""
    spent: float
    """FLOPs of the campaign so far."""


class AffordEntry(Body, frozen=True):
    """Whether the budget paid for something that may also be left out."""

    kind = "afford"

    flops: float
    """What it costs, FLOPs."""
    why: str
    """What it is, in words."""
    paid: bool
    """Whether the budget paid."""


class RevealEntry(Body, frozen=True):
    """What the seal of a decided proposal holds."""

    kind = "reveal"

    number: int
    """Number of the proposal."""
    label: ProposalKind = msgspec.field(name="kind")
    """Whether it was a real proposal, or what was planted."""
    salt: str
    """Salt of the seal, hex."""


class PlantsEntry(Body, frozen=True):
    """The campaign is over: all that could be planted."""

    kind = "plants"

    opened: tuple[RevealedPlant, ...]
    """The plants with their labels and salts."""


class StopEntry(Body, frozen=True):
    """A session of the campaign has ended."""

    kind = "stop"

    reason: str
    """Why, in words."""
    seconds: float
    """Machine time of the campaign so far."""


CAMPAIGN = (
    CampaignEntry, TuningEntry, PilotEntry, TrialEntry, CheckEntry, AuditEntry, FailureEntry,
    GuestEntry, ProposalsEntry, ScreeningEntry, AnnouncementEntry, DecisionEntry, ScaleEntry,
    GenerationEntry, VaultEntry, PruningEntry, AffordEntry, RevealEntry, PlantsEntry, StopEntry,
)  # fmt: skip
"""All kinds of entries in a campaign's ledger."""
