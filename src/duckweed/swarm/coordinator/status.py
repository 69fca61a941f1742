"""What a coordinator tells those who are not in the run: newcomers, and those who ask how it is doing."""

import math
import os
from typing import TYPE_CHECKING

from duckweed.net import clock
from duckweed.round.open_round import Member
from duckweed.run import toml
from duckweed.swarm.protocol import messages as m

if TYPE_CHECKING:
    from duckweed.swarm.coordinator.coordinator import Coordinator

PEERS_LISTED = 2000  # peers in one answer at most; those that are here come first


def answer(
    run: "Coordinator", question: m.GetRunInfo | m.GetStatus | m.Probe
) -> tuple[m.Answer, bytes]:
    """Answer somebody who may come in but need not be a member; nothing is changed by it."""
    if isinstance(question, m.Probe):
        return m.Blob(), os.urandom(max(0, min(question.size, m.PROBE_LIMIT)))
    return run_info(run) if isinstance(question, m.GetRunInfo) else status(run), b""


def run_info(run: "Coordinator") -> m.RunInfo:
    """What a newcomer would take part in."""
    last = run.last
    sizes = (last and last.contribution_bytes) or [0]
    # Without a merged update every peer fetches the contributions of all.
    down = (last and last.update_bytes) or sum(sizes)
    return m.RunInfo(
        toml.write(run.spec),
        run.layout.digest(),
        run.history.tokens,
        run.number,
        len(run.admission.here()),
        sum(sizes) // len(sizes),
        down,
        last.seconds if last else 0.0,
    )


def status(run: "Coordinator") -> m.Status:
    """How the run is doing at this moment."""
    last = run.last
    members = run.admission.by_index
    now = clock.now()
    shown = sorted(members, key=lambda x: (not x.here, x.index))[:PEERS_LISTED]
    return m.Status(
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
        dict(run.admission.rate_limits.refused),
        _leader(run),
    )


def _leader(run: "Coordinator") -> str:
    """Name of the leader, where others could lead; "" where there is only one voter."""
    leadership = run.ledger.leadership
    return leadership.name(leadership.leader) if leadership and len(leadership.voters) > 1 else ""


def _peer(member: Member, now: float) -> m.PeerStatus:
    return m.PeerStatus(
        member.index,
        member.key,
        member.here,
        member.doing,
        member.step,
        member.loss if math.isfinite(member.loss) else 0.0,
        now - member.heard if member.heard else 0.0,
        member.counted,
    )
