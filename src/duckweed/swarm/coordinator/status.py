"""What a coordinator tells those who are not in the run: terms for newcomers, standing for onlookers."""

import math
import os
from typing import TYPE_CHECKING

from duckweed.net import clock
from duckweed.round.blocks import Member
from duckweed.run import toml
from duckweed.swarm.protocol import messages as m

if TYPE_CHECKING:
    from duckweed.swarm.coordinator.coordinator import Coordinator

SHOWN = 2000  # peers in one answer at most; those who are here come first


def answer(run: "Coordinator", question: m.Enquire | m.Look | m.Probe) -> tuple[m.Answer, bytes]:
    """Answer somebody who may come in but need not be a member; nothing is changed by it."""
    if isinstance(question, m.Probe):
        return m.Blob(), os.urandom(max(0, min(question.size, m.PROBE_LIMIT)))
    return terms(run) if isinstance(question, m.Enquire) else standing(run), b""


def terms(run: "Coordinator") -> m.Terms:
    """What a newcomer would take part in."""
    last = run.last
    sizes = (last and last.contribution_bytes) or [0]
    # Without a merged update every peer fetches the contributions of all.
    down = (last and last.update_bytes) or sum(sizes)
    return m.Terms(
        toml.write(run.spec),
        run.layout.digest(),
        run.past.tokens,
        run.number,
        len(run.admission.here()),
        sum(sizes) // len(sizes),
        down,
        last.seconds if last else 0.0,
    )


def standing(run: "Coordinator") -> m.Standing:
    """How the run stands at this moment."""
    last = run.last
    members = run.admission.by_index
    now = clock.now()
    shown = sorted(members, key=lambda x: (not x.here, x.index))[:SHOWN]
    return m.Standing(
        run.spec.identity,
        run.number,
        run.spec.rounds.count,
        len(members),
        [_peer(x, now) for x in sorted(shown, key=lambda x: x.index)],
        last.loss if last else None,
        run.held_out,
        last.seconds if last else 0.0,
        run.waiting_for(),
        run.moved(),
        dict(run.admission.guard.refused),
        _in_charge(run),
    )


def _in_charge(run: "Coordinator") -> str:
    """Who coordinates, where others could; "" where there is nobody else."""
    charge = run.ledger.charge
    return charge.name(charge.key) if charge and len(charge.voters) > 1 else ""


def _peer(member: Member, now: float) -> m.PeerStanding:
    return m.PeerStanding(
        member.index,
        member.key,
        member.here,
        member.doing,
        member.step,
        member.loss if math.isfinite(member.loss) else 0.0,
        now - member.heard if member.heard else 0.0,
        member.counted,
    )
