"""The confirmation of one proposal: announced beforehand, on seeds that nobody could choose.

Parent and child are trained in pairs on the same seed by the same worker, in turns; after every
pair the evidence is asked. Seeds follow from the proposal and the head of the ledger at its
announcement, so that neither a proposer nor a worker can look for lucky ones.
"""

import math
from typing import cast

from duckweed.evolve.decide.requests import Check, Note, Standing, Steps, run
from duckweed.evolve.decide.trial_spec import Cell, Proposal, digest, seed_of
from duckweed.evolve.statistics.sequential import Evidence, Verdict, decision, interval


def confirm(standing: Standing, proposal: Proposal, together: int = 1) -> Steps[Evidence | None]:
    """The evidence where the child is accepted at the level that the ledger holds, else None.
    together: pairs at once."""
    s = standing.settings
    level = standing.spending.level
    child = standing.parent | proposal.difference
    delta = standing.slope * math.log1p(s.margin)
    announced = {
        "number": proposal.number,
        "parent": digest(standing.parent),
        "child": digest(child),
        "commitment": proposal.commitment,
        "test": "paired sequential t, duckweed.evolve.sequential",
        "level": level,
        "margin": delta,
        "pairs": s.pairs,
        "budget": s.budget,
    }
    head = yield Note("announcement", announced)
    # The parent against itself on one seed would be the same run twice.
    apart = child == standing.parent
    evidence, verdict, unusable = Evidence(delta), cast(Verdict, "continue"), 0
    differences: list[float] = []
    pairs: list[list[Cell]] = []
    credit = standing.credit(proposal.proposer)
    while verdict == "continue":
        count = min(together, s.pairs - len(pairs))
        new = []
        for i in range(len(pairs), len(pairs) + count):
            seed = seed_of(digest(proposal), head, i)
            other = seed_of(digest(proposal), head, i, "child") if apart else seed
            both = [Cell(standing.parent, seed, s.budget), Cell(child, other, s.budget)]
            new.append(both if i % 2 == 0 else both[::-1])
        results, added = yield from run(standing, new, "confirmation")
        credit.spent += added
        for group, row in zip(new, results, strict=True):
            pairs.append(group)
            if verdict == "continue":
                order = row if len(pairs) % 2 == 1 else row[::-1]
                parent, other_loss = order[0].value, order[1].value
                if not math.isfinite(parent):
                    unusable += 1  # such a pair says nothing; the next seed is taken
                    verdict = "undecided" if len(pairs) >= s.pairs else verdict
                    continue
                differences.append(parent - other_loss)  # -inf where the child diverged
                evidence = evidence.update(differences[-1])
                verdict = decision(evidence, level, s.pairs - unusable)
    accepted = verdict == "accepted"
    checked = None
    if accepted:
        checked = yield from _check(standing, pairs, head)
        accepted = checked
    standing.spending = standing.spending.record(accepted)
    credit.confirmations += 1
    low, high = interval(evidence)
    yield Note(
        "decision",
        {
            "number": proposal.number,
            "verdict": verdict,
            "accepted": accepted,
            "checked": checked,
            "differences": [None if d == -math.inf else d for d in differences],
            "parent_diverged": unusable,
            "e_value": evidence.e_value,
            "mean": None if evidence.diverged or not evidence.pairs else evidence.mean,
            "interval": [_finite(low), _finite(high)],
            "inert": evidence.inert,
            "spent": standing.spent,
        },
    )
    return evidence if accepted else None


def _check(standing: Standing, pairs: list[list[Cell]], head: str) -> Steps[bool]:
    """No worker confirms alone: one of the pairs, drawn from the head of the ledger, is run again
    by another worker, which must reach the same weights bit for bit."""
    drawn = pairs[seed_of("check", head) % len(pairs)]
    for cell in drawn:
        first, again = yield Check(cell)
        standing.spent += again.flops
        if (first.weights, first.loss) != (again.weights, again.loss):
            return False
    return True


def _finite(x: float) -> float | None:
    return x if math.isfinite(x) else None
