"""The scale check: does an accepted change still help a larger model?

Published gains often shrink or turn into losses with size.
"""

import math
from typing import Literal

from duckweed.evolve.decide.requests import CampaignState, Record, Steps, run_trials
from duckweed.evolve.entries import ScaleEntry
from duckweed.evolve.trial_spec import Proposal, TrialSpec, seed_of


def scale_check(state: CampaignState, proposal: Proposal, gain: float) -> Steps[str]:
    """ "pass", "fades" or "fails" at `Settings.scale` times the size, with compute in proportion.

    gain: what the child was better by at the base size (bits per byte). pass: at least half of it;
    fades: still better; fails: not better in the mean of few pairs. A coarse sieve, not a test.
    """
    s = state.settings
    child = state.parent | proposal.difference
    groups = [
        [
            TrialSpec(
                recipe, seed_of("scale", s.seed, proposal.number, i), s.scale * s.budget, s.scale
            )
            for recipe in (state.parent, child)
        ]
        for i in range(s.scale_pairs)
    ]
    results, added = yield from run_trials(state, groups, "scale")
    state.credit(proposal.proposer).spent += added
    differences = [parent.value - other.value for parent, other in results]
    usable = all(math.isfinite(d) for d in differences)
    mean = sum(differences) / len(differences) if usable else -math.inf
    verdict: Literal["pass", "fades", "fails"] = (
        "pass" if mean >= gain / 2 else "fades" if mean > 0 else "fails"
    )
    yield Record(ScaleEntry(proposal.number, s.scale, differences if usable else None, verdict))
    return verdict
