"""A campaign as its ledger tells it, for the terminal, the report and the returns."""

import math
import statistics
from typing import Literal

import msgspec

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
    TrialEntry,
    TuningEntry,
    VaultEntry,
)
from duckweed.evolve.space.commitments import ProposalKind, commitment
from duckweed.evolve.space.registry import RegistryError
from duckweed.evolve.space.signed_registry import RevealedPlant, check_revealed
from duckweed.evolve.statistics.multiplier import Multiplier
from duckweed.evolve.statistics.returns import Point
from duckweed.evolve.statistics.sequential import smallest_effect
from duckweed.evolve.trial_spec import Proposal, Provenance, Recipe, TrialResult, digest
from duckweed.ledger.entries import Body
from duckweed.ledger.ledger import Ledger, LedgerError

Outcome = Literal["adopted", "accepted", "rejected", "undecided", "open"]
"""accepted: confirmed, but not adopted, because it fails at size or changes nothing."""


class Decision(msgspec.Struct):
    """A proposal that went into confirmation."""

    number: int  # of the proposal
    difference: Recipe
    proposer: str
    provenance: Provenance
    level: float  # alpha of its test
    pairs: int = 0
    mean: float | None = None  # difference in bits per byte, above 0: the child is better
    low: float | None = None  # its interval
    high: float | None = None
    sd: float | None = None  # of the differences
    e_value: float = 0.0
    verdict: str = "open"  # of the test
    outcome: Outcome = "open"
    why: str = ""  # the reason in words
    scale: str = ""  # verdict of the scale check
    kind: ProposalKind | None = None  # what its seal held, None while sealed
    spent: float = 0.0  # FLOPs of the campaign so far

    @property
    def gain_text(self) -> str:
        """Bits per byte by which the child was better, in words."""
        if self.mean is None:
            return ""
        ends = self.low is not None and self.high is not None
        return f"{self.mean:+.3f}" + (f" ({self.low:+.3f} to {self.high:+.3f})" if ends else "")


class Generation(msgspec.Struct):
    """An adopted change and its comparison with generation 0."""

    number: int
    proposal: int
    difference: Recipe
    proposer: str
    provenance: Provenance
    recipe: Recipe
    scale: str  # verdict of the scale check
    spent: float  # FLOPs of the campaign when it was adopted
    comparison: Multiplier | None = None
    fault: str = ""  # why there is no comparison
    measured: float = 0.0  # FLOPs of the campaign after the comparison
    taken_back: list[str] = msgspec.field(default_factory=list)  # keys pruned later

    def change(self, difference: str) -> str:
        """What it consists of in one line. difference: the adopted one, in words."""
        pruned = f"; taken back: {', '.join(self.taken_back)}" if self.taken_back else ""
        return difference + pruned

    @property
    def over_zero(self) -> str:
        """Its multiplier over generation 0 in words, or why there is none."""
        return str(self.comparison.reported) if self.comparison else self.fault or "not measured"


class ProposerRecord(msgspec.Struct):
    """What a proposer did."""

    proposals: int = 0
    confirmed: int = 0
    adopted: int = 0
    refused: int = 0
    flops: float = 0.0  # of screening, confirmation and scale checks of its proposals
    gain: float = 0.0  # ln compute, as confirmed


class RunCount(msgspec.Struct):
    """The runs of one purpose."""

    count: int = 0
    flops: float = 0.0
    seconds: float = 0.0


class History(msgspec.Struct):
    """A campaign as its ledger tells it."""

    genesis: CampaignEntry
    tuning: TuningEntry | None = None
    pilot: PilotEntry | None = None
    decisions: list[Decision] = msgspec.field(default_factory=list)
    generations: list[Generation] = msgspec.field(default_factory=list)
    proposers: dict[str, ProposerRecord] = msgspec.field(default_factory=dict)
    runs: dict[str, RunCount] = msgspec.field(default_factory=dict)  # by purpose
    refused: list[Refusal] = msgspec.field(default_factory=list)
    failures: int = 0  # workers that ended or went away
    remotes: dict[str, str] = msgspec.field(default_factory=dict)  # key: the last report of it
    audits: int = 0  # trials of remote workers that were run again here
    disagreed: int = 0  # audits with another result
    diverged: int = 0  # runs without a loss
    plants: tuple[RevealedPlant, ...] = ()  # all that could be planted; empty before the end
    parent: Recipe = msgspec.field(default_factory=dict)  # the recipe in force
    children: dict[str, str] = msgspec.field(default_factory=dict)  # digest of a child: proposer

    def proposer(self, name: str) -> ProposerRecord:
        return self.proposers.setdefault(name, ProposerRecord())

    @property
    def spent(self) -> float:
        """FLOPs of all runs."""
        return sum(run.flops for run in self.runs.values())

    @property
    def seconds(self) -> float:
        return sum(run.seconds for run in self.runs.values())

    @property
    def slope(self) -> float:
        """Bits per byte per e-fold of compute."""
        return self.tuning.slope if self.tuning and self.tuning.slope is not None else math.nan

    @property
    def scatter(self) -> float | None:
        """Median sd of the pairs of a confirmation, without those of the parent against itself: they
        run on different seeds, as the pilot's do."""
        found = [d.sd for d in self.decisions if d.sd is not None and d.difference]
        return statistics.median(found) if found else None

    def findable(self) -> float:
        """Bits per byte that the first test finds in 8 of 10 cases where pairs scatter like that."""
        level = self.pilot.level if self.pilot else math.nan
        pairs = int(self.genesis.settings["pairs"])
        return smallest_effect(self.scatter or math.nan, level, pairs)

    @property
    def power(self) -> str:
        """What can be found, in words: by the pilot, and by the pairs of the confirmations so far."""
        if not self.pilot:
            return ""
        text = (
            f"the parent against itself, on other seeds: sd {self.pilot.sd:.3f} bits/byte; in 8 of "
            f"10 cases {self.pilot.smallest:.3f} would be found"
        )
        if self.scatter is not None:
            text += (
                f". Pairs of confirmations, which share a seed: sd {self.scatter:.3f} (median), with "
                f"which {self.findable():.3f} is found"
            )
        return text

    def recipe(self) -> Recipe:
        """The recipe of the last comparison; generation 0 before any."""
        if best := self.best():
            return best.recipe
        return self.tuning.zero if self.tuning else {}

    def best(self) -> Generation | None:
        """The last generation that was compared with generation 0."""
        measured = [g for g in self.generations if g.comparison is not None]
        return measured[-1] if measured else None

    def points(self) -> list[Point]:
        """One per generation with a comparison, for the returns."""
        return [
            Point(g.measured, math.log(c.reported.m), c.reported_se, g.provenance)
            for g in self.generations
            if (c := g.comparison) is not None and c.reported.m > 0 and 0 < c.reported_se < math.inf
        ]

    @property
    def before(self) -> float:
        """Research compute that generation 0 embodies, in FLOPs."""
        return self.pilot.spent if self.pilot else self.spent

    def planted(self) -> dict[str, "PlantedCount"]:
        """For "same", "null" and "harmful", revealed ones only."""
        found = {}
        for kind in ("same", "null", "harmful"):
            ended = [d for d in self.decisions if d.kind == kind and d.outcome != "open"]
            wrong = sum(d.outcome in ("adopted", "accepted") for d in ended)
            found[kind] = PlantedCount(len(ended), wrong)
        return found


class PlantedCount(msgspec.Struct, frozen=True):
    """Planted proposals of one kind."""

    decided: int
    accepted: int


def read(ledger: Ledger) -> History:
    """From all entries. Raises LedgerError where it is not the ledger of a campaign."""
    history: History | None = None
    proposals: dict[int, Proposal] = {}
    for entry in ledger.entries(*CAMPAIGN):
        if history is None:
            if not isinstance(entry.body, CampaignEntry) or not entry.body.settings:
                raise LedgerError(f"{ledger.path}: not the ledger of a campaign")
            history = History(entry.body)
        _take(history, entry.body, proposals)
    if history is None:
        raise LedgerError(f"{ledger.path}: an empty ledger")
    return history


def _take(history: History, entry: Body, proposals: dict[int, Proposal]) -> None:
    match entry:
        case TuningEntry():
            history.tuning, history.parent = entry, entry.zero
        case PilotEntry():
            history.pilot = entry
        case TrialEntry():
            _trial(history, entry.purpose, entry.result)
            _charge(history, entry)
        case CheckEntry():
            _trial(history, "check", entry.result)
        case ProposalsEntry():
            _proposals(history, entry, proposals)
        case AnnouncementEntry():
            p = proposals[entry.number]
            history.decisions.append(
                Decision(p.number, p.difference, p.proposer, p.provenance, entry.level)
            )
        case DecisionEntry():
            _decision(history, entry)
        case ScaleEntry():
            _scale(history, entry)
        case GenerationEntry():
            _generation(history, entry)
        case VaultEntry() if history.generations:
            last = history.generations[-1]
            last.comparison, last.fault, last.measured = entry.found, entry.fault, entry.spent
        case PruningEntry(taken_back=str(key)) if history.generations:
            last = history.generations[-1]
            last.taken_back.append(key)
            last.recipe = history.parent = entry.recipe
            last.comparison = None  # that was another recipe
        case FailureEntry():
            history.failures += 1
        case GuestEntry():
            history.remotes[entry.key] = entry.reason
        case AuditEntry(theirs=theirs, result=ours):
            _trial(history, "audit", ours)
            history.audits += 1
            history.disagreed += (theirs.weights, theirs.loss) != (ours.weights, ours.loss)
        case RevealEntry():
            _reveal(history, entry, proposals)
        case PlantsEntry():
            history.plants = _plants(history, entry)


def _trial(history: History, purpose: str, result: TrialResult) -> None:
    run = history.runs.setdefault(purpose, RunCount())
    run.count += 1
    run.flops += result.flops
    run.seconds += result.seconds
    history.diverged += result.loss is None


def _charge(history: History, trial: TrialEntry) -> None:
    """Charge the run to the proposer of what it tests; confirmation pays for both arms."""
    who = None
    recipe = trial.what.recipe
    if trial.purpose == "screening" and recipe != history.parent:
        who = history.children.get(digest(recipe))
    elif trial.purpose in ("confirmation", "scale") and history.decisions:
        who = history.decisions[-1].proposer
    if who is not None:
        history.proposer(who).flops += trial.result.flops


def _proposals(history: History, entry: ProposalsEntry, proposals: dict[int, Proposal]) -> None:
    for proposal in entry.proposals:
        proposals[proposal.number] = proposal
        history.proposer(proposal.proposer).proposals += 1
        history.children[digest(history.parent | proposal.difference)] = proposal.proposer
    for refusal in entry.refused:
        history.refused.append(refusal)
        history.proposer(refusal.proposer).refused += 1


def _decision(history: History, entry: DecisionEntry) -> None:
    d = history.decisions[-1]
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
        history.proposer(d.proposer).confirmed += 1
        if not entry.accepted:
            d.outcome, d.why = "undecided", "another worker could not reach the same weights"
        elif not d.difference:
            d.why += "; the parent itself, nothing to adopt"


def _scale(history: History, entry: ScaleEntry) -> None:
    d = history.decisions[-1]
    d.scale = entry.verdict
    if entry.verdict == "fails":
        d.why += f"; not adopted: no better at {entry.size} times the size"


def _generation(history: History, entry: GenerationEntry) -> None:
    d = history.decisions[-1]
    d.outcome = "adopted"
    history.parent = entry.recipe
    record = history.proposer(d.proposer)
    record.adopted += 1
    record.gain += max(0.0, d.mean or 0.0) / history.slope
    history.generations.append(
        Generation(
            entry.generation, entry.number, entry.difference, entry.proposer, entry.provenance,
            entry.recipe, entry.scale, entry.spent,
        )
    )  # fmt: skip


def _reveal(history: History, entry: RevealEntry, proposals: dict[int, Proposal]) -> None:
    proposal = proposals.get(entry.number)
    sealed = proposal and commitment(entry.salt, entry.number, entry.label, proposal.difference)
    if proposal is None or sealed != proposal.commitment:
        raise LedgerError(f"the seal of proposal {entry.number} does not fit what was revealed")
    for d in history.decisions:
        if d.number == entry.number:
            d.kind = entry.label


def _plants(history: History, entry: PlantsEntry) -> tuple[RevealedPlant, ...]:
    """The plants as revealed at the end, which must be those that the genesis committed to."""
    try:
        check_revealed(history.genesis.plants, entry.opened)
    except RegistryError as error:
        raise LedgerError(f"entry of kind 'plants': {error}") from error
    return entry.opened
