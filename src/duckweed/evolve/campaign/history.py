"""What a campaign's ledger says, in the order in which a reader asks."""

import math
import statistics
from typing import Literal

import msgspec

from duckweed.evolve.decide.trial_spec import Proposal, Recipe, Result, digest
from duckweed.evolve.entries import (
    CAMPAIGN,
    AnnouncementEntry,
    AuditEntry,
    CampaignEntry,
    CheckEntry,
    DecisionEntry,
    FailureEntry,
    GenerationEntry,
    GuestEntry,
    PilotEntry,
    PlantsEntry,
    ProposalsEntry,
    PruningEntry,
    Refusal,
    RevealEntry,
    ScaleEntry,
    StopEntry,
    TrialEntry,
    TuningEntry,
    VaultEntry,
)
from duckweed.evolve.space.commitments import Kind, commitment
from duckweed.evolve.space.registry import RegistryError
from duckweed.evolve.space.signed_registry import Opened, check_opened
from duckweed.evolve.statistics.multiplier import Multiplier
from duckweed.evolve.statistics.returns import Point
from duckweed.evolve.statistics.sequential import smallest_effect
from duckweed.ledger.entries import Body
from duckweed.ledger.ledger import Ledger, LedgerError

Outcome = Literal["adopted", "accepted", "rejected", "undecided", "open"]
"""accepted: confirmed, but fails at size or changes nothing, so not adopted."""


class Decided(msgspec.Struct):
    """A proposal that went into confirmation. level: its alpha; pairs, mean, low, high, sd: of
    the differences in bits per byte; why: in words; kind: what its seal held, None while sealed."""

    number: int
    difference: Recipe
    proposer: str
    provenance: str
    level: float
    pairs: int = 0
    mean: float | None = None
    low: float | None = None
    high: float | None = None
    sd: float | None = None
    e_value: float = 0.0
    verdict: str = "open"
    outcome: Outcome = "open"
    why: str = ""
    scale: str = ""
    kind: Kind | None = None
    spent: float = 0.0


class Generation(msgspec.Struct):
    """An adopted change and what the vault says of the recipe. taken_back: keys pruned later,
    before the next one."""

    number: int
    proposal: int
    difference: Recipe
    proposer: str
    provenance: Literal["known", "adapted", "novel"]
    recipe: Recipe
    scale: str
    spent: float
    vault: Multiplier | None = None
    fault: str = ""
    measured: float = 0.0  # spent when the vault had been opened
    taken_back: list[str] = msgspec.field(default_factory=list)


class Share(msgspec.Struct):
    """A proposer's record. flops: of screening and confirming its proposals, scale checks too."""

    proposals: int = 0
    confirmed: int = 0
    adopted: int = 0
    refused: int = 0
    flops: float = 0.0
    gain: float = 0.0  # ln compute, as confirmed


class History(msgspec.Struct):
    """A campaign as its ledger tells it."""

    genesis: CampaignEntry
    tuning: TuningEntry | None = None
    pilot: PilotEntry | None = None
    decided: list[Decided] = msgspec.field(default_factory=list)
    generations: list[Generation] = msgspec.field(default_factory=list)
    shares: dict[str, Share] = msgspec.field(default_factory=dict)
    runs: dict[str, list[float]] = msgspec.field(default_factory=dict)  # purpose: count, FLOPs, s
    refused: list[Refusal] = msgspec.field(default_factory=list)
    failures: int = 0
    guests: dict[str, str] = msgspec.field(
        default_factory=dict
    )  # key: the last that was said of it
    audits: int = 0  # cells of guests that were run again here
    disagreed: int = 0
    diverged: int = 0
    stops: list[str] = msgspec.field(default_factory=list)
    entries: int = 0
    plants: tuple[Opened, ...] = ()  # all that could be planted; empty before the end
    parent: Recipe = msgspec.field(default_factory=dict)  # the recipe in force
    children: dict[str, str] = msgspec.field(default_factory=dict)  # digest: who proposes it

    @property
    def spent(self) -> float:
        return sum(row[1] for row in self.runs.values())

    @property
    def seconds(self) -> float:
        return sum(row[2] for row in self.runs.values())

    @property
    def slope(self) -> float:
        return self.tuning.slope if self.tuning and self.tuning.slope is not None else math.nan

    def multiplier(self, gain: float) -> float:
        """A gain in bits per byte as a factor of compute, by the slope that tuning measured."""
        return math.exp(max(-50.0, min(50.0, gain / self.slope)))

    @property
    def scatter(self) -> float | None:
        """Median sd of the pairs of a confirmation, those of the parent against itself left out:
        they run on different seeds, as the pilot's do."""
        found = [d.sd for d in self.decided if d.sd is not None and d.difference]
        return statistics.median(found) if found else None

    def findable(self) -> float:
        """Bits per byte that the first test finds in 8 of 10 cases where pairs scatter like that."""
        level = self.pilot.level if self.pilot else math.nan
        pairs = int(self.genesis.settings["pairs"])
        return smallest_effect(self.scatter or math.nan, level, pairs)

    def recipe(self) -> Recipe:
        """The recipe that the last opened vault stands behind; generation 0 before any."""
        if best := self.best():
            return best.recipe
        return self.tuning.zero if self.tuning else {}

    def best(self) -> Generation | None:
        measured = [g for g in self.generations if g.vault is not None]
        return measured[-1] if measured else None

    def points(self) -> list[Point]:
        """One per generation with a vault, for the returns."""
        return [
            Point(g.measured, math.log(g.vault.reported.m), g.vault.reported_se, g.provenance)
            for g in self.generations
            if g.vault is not None and g.vault.reported.m > 0 and 0 < g.vault.reported_se < math.inf
        ]

    @property
    def before(self) -> float:
        """Research compute that generation 0 embodies."""
        return self.pilot.spent if self.pilot else self.spent


def read(ledger: Ledger) -> History:
    """From all entries. Raises LedgerError where they make no campaign."""
    told: History | None = None
    proposals: dict[int, Proposal] = {}
    for entry in ledger.entries(*CAMPAIGN):
        if told is None:
            if not isinstance(entry.body, CampaignEntry) or not entry.body.settings:
                raise LedgerError(f"{ledger.path}: not the ledger of a campaign")
            told = History(entry.body)
        told.entries += 1
        _take(told, entry.body, proposals)
    if told is None:
        raise LedgerError(f"{ledger.path}: an empty ledger")
    return told


def _take(told: History, body: Body, proposals: dict[int, Proposal]) -> None:
    match body:
        case TuningEntry():
            told.tuning, told.parent = body, body.zero
        case PilotEntry():
            told.pilot = body
        case TrialEntry():
            _trial(told, body.purpose, body.result)
            _charge(told, body)
        case CheckEntry():
            _trial(told, "check", body.result)
        case ProposalsEntry():
            _proposals(told, body, proposals)
        case AnnouncementEntry():
            p = proposals[body.number]
            told.decided.append(
                Decided(p.number, p.difference, p.proposer, p.provenance, body.level)
            )
        case DecisionEntry():
            _decision(told, body)
        case ScaleEntry():
            _scale(told, body)
        case GenerationEntry():
            _generation(told, body)
        case VaultEntry() if told.generations:
            last = told.generations[-1]
            last.vault, last.fault, last.measured = body.found, body.fault, body.spent
        case PruningEntry(taken_back=str(key)) if told.generations:
            last = told.generations[-1]
            last.taken_back.append(key)
            last.recipe = told.parent = body.recipe
            last.vault = None  # that was another recipe
        case FailureEntry():
            told.failures += 1
        case GuestEntry():
            told.guests[body.key] = body.reason
        case AuditEntry(theirs=theirs, result=ours):
            _trial(told, "audit", ours)
            told.audits += 1
            told.disagreed += (theirs.weights, theirs.loss) != (ours.weights, ours.loss)
        case RevealEntry():
            _reveal(told, body, proposals)
        case PlantsEntry():
            told.plants = _plants(told, body)
        case StopEntry():
            told.stops.append(body.reason)


def _trial(told: History, purpose: str, result: Result) -> None:
    row = told.runs.setdefault(purpose, [0.0, 0.0, 0.0])
    row[0] += 1
    row[1] += result.flops
    row[2] += result.seconds
    told.diverged += result.loss is None


def _charge(told: History, trial: TrialEntry) -> None:
    """The run's cost to whoever proposed what it tests; confirmation pays for both arms."""
    who = None
    recipe = trial.what.recipe
    if trial.purpose == "screening" and recipe != told.parent:
        who = told.children.get(digest(recipe))
    elif trial.purpose in ("confirmation", "scale") and told.decided:
        who = told.decided[-1].proposer
    if who is not None:
        told.shares.setdefault(who, Share()).flops += trial.result.flops


def _proposals(told: History, entry: ProposalsEntry, proposals: dict[int, Proposal]) -> None:
    for proposal in entry.proposals:
        proposals[proposal.number] = proposal
        told.shares.setdefault(proposal.proposer, Share()).proposals += 1
        told.children[digest(told.parent | proposal.difference)] = proposal.proposer
    for refusal in entry.refused:
        told.refused.append(refusal)
        told.shares.setdefault(refusal.proposer, Share()).refused += 1


def _decision(told: History, entry: DecisionEntry) -> None:
    d = told.decided[-1]
    e_value = math.inf if entry.e_value is None else entry.e_value
    d.pairs, d.mean, d.e_value = len(entry.differences), entry.mean, e_value
    d.low, d.high = entry.interval
    d.verdict, d.spent = entry.verdict, entry.spent
    finite = [x for x in entry.differences if x is not None]
    d.sd = statistics.stdev(finite) if len(finite) > 1 else None
    words = {
        "accepted": f"e-value {e_value:.3g} reached 1/{d.level:.2g}",
        "worse": "shown to be worse",
        "futile": "ended early: no gain in sight",
        "undecided": f"no verdict after {d.pairs} pairs",
    }
    d.why = words[entry.verdict]
    if entry.inert:
        d.why = "changes nothing at all"
    if None in entry.differences:
        d.why = "diverged"
    d.outcome = "rejected" if entry.verdict in ("worse", "futile") else "undecided"
    if entry.verdict == "accepted":
        d.outcome = "accepted"
        told.shares.setdefault(d.proposer, Share()).confirmed += 1
        if not entry.accepted:
            d.outcome, d.why = "undecided", "another worker could not reach the same weights"
        elif not d.difference:
            d.why += "; the parent itself, nothing to adopt"


def _scale(told: History, entry: ScaleEntry) -> None:
    d = told.decided[-1]
    d.scale = entry.verdict
    if entry.verdict == "fails":
        d.why += f"; not adopted: no better at {entry.size} times the size"


def _generation(told: History, entry: GenerationEntry) -> None:
    d = told.decided[-1]
    d.outcome = "adopted"
    told.parent = entry.recipe
    share = told.shares.setdefault(d.proposer, Share())
    share.adopted += 1
    share.gain += max(0.0, d.mean or 0.0) / told.slope
    told.generations.append(
        Generation(
            entry.generation, entry.number, entry.difference, entry.proposer, entry.provenance,
            entry.recipe, entry.scale, entry.spent,
        )
    )  # fmt: skip


def _reveal(told: History, entry: RevealEntry, proposals: dict[int, Proposal]) -> None:
    proposal = proposals.get(entry.number)
    sealed = proposal and commitment(entry.salt, entry.number, entry.label, proposal.difference)
    if proposal is None or sealed != proposal.commitment:
        raise LedgerError(f"the seal of proposal {entry.number} does not hold what was opened")
    for d in told.decided:
        if d.number == entry.number:
            d.kind = entry.label


class Honesty(msgspec.Struct, frozen=True):
    """Of one kind that was planted: how many were decided, how many accepted."""

    decided: int
    accepted: int


def honesty(told: History) -> dict[str, Honesty]:
    """For "same", "null" and "harmful", opened ones only."""
    found = {}
    for kind in ("same", "null", "harmful"):
        ended = [d for d in told.decided if d.kind == kind and d.outcome != "open"]
        wrong = sum(d.outcome in ("adopted", "accepted") for d in ended)
        found[kind] = Honesty(len(ended), wrong)
    return found


def _plants(told: History, entry: PlantsEntry) -> tuple[Opened, ...]:
    """The plants as opened at the end, which must be those that the genesis committed to."""
    try:
        check_opened(told.genesis.plants, entry.opened)
    except RegistryError as error:
        raise LedgerError(f"entry of kind 'plants': {error}") from error
    return entry.opened
