"""What a coordinator tells machines that need not be members: what a newcomer would join, how the run is
doing."""

import math
import os

from msgspec import UnsetType

from duckweed.net import clock
from duckweed.round.open_round import Member
from duckweed.run import toml
from duckweed.swarm.coordinator.rounds import RoundDriver
from duckweed.swarm.protocol import messages as m
from duckweed.swarm.protocol import offers

PEERS_LISTED = 2000  # peers in one answer at most; those that are here come first


Lasting = m.GetRunInfo | m.GetStatus | m.GetPaths | m.GetRouter
"""What machines may ask that are not members, also of a run that is over."""
Outside = Lasting | m.Probe
"""What machines may ask that are not members."""


def answer(rounds: RoundDriver, question: Outside, body: bytes) -> tuple[m.Answer, bytes]:
    """The answer to a machine that may come in but need not be a member. Changes nothing."""
    if isinstance(question, m.Probe):  # no more than was sent: whoever asks need not be a member
        return m.Blob(), os.urandom(min(question.size, len(body), m.PROBE_LIMIT))
    if isinstance(question, m.GetPaths):
        return m.Paths(_paths(rounds, question.secret)), b""
    if isinstance(question, m.GetRouter):
        branch = rounds.spec.branch
        if isinstance(branch, UnsetType) or not branch.router:
            return m.Refused("this run has no router"), b""
        return m.Blob(), rounds.engine.blobs.read(branch.router)
    return run_info(rounds) if isinstance(question, m.GetRunInfo) else status(rounds), b""


def _paths(rounds: RoundDriver, secret: str) -> list[m.PathOffer]:
    """The paths of the family: for whoever came to its common start, and for whoever has come to one of its paths from
    there, but not for a guest of that path alone."""
    if rounds.spec.path is None:
        return offers.read(rounds.folder)
    found = offers.read_beside(rounds.folder)
    mine = [offer.secret for offer in found if offer.run == rounds.spec.identity]
    return found if mine == [secret] else []


def run_info(rounds: RoundDriver) -> m.RunInfo:
    """What a newcomer would take part in."""
    last = rounds.last
    sizes = (last and last.contribution_bytes) or [0]
    # Without a merged update every peer fetches the contributions of all.
    down = (last and last.update_bytes) or sum(sizes)
    return m.RunInfo(
        toml.write(rounds.spec),
        rounds.engine.layout.digest(),
        rounds.history.tokens,
        rounds.number,
        len(rounds.admission.here()),
        sum(sizes) // len(sizes),
        down,
        last.seconds if last else 0.0,
        rounds.history.start,
    )


def status(rounds: RoundDriver) -> m.Status:
    """How the run is doing at this moment."""
    last = rounds.last
    members = rounds.admission.by_index.values()
    now = clock.now()
    shown = sorted(members, key=lambda x: (not x.here, x.index))[:PEERS_LISTED]
    return m.Status(
        rounds.spec.identity,
        rounds.number,
        rounds.spec.schedule.rounds,
        len(rounds.history.peers),
        [
            _peer(x, now, rounds.history.wrote[x.index])
            for x in sorted(shown, key=lambda x: x.index)
        ],
        last.loss if last else None,
        rounds.measured(),
        last.seconds if last else 0.0,
        rounds.waiting_for(),
        rounds.traffic.moved(),
        dict(rounds.admission.rate_limits.refused),
        _leader(rounds),
    )


def _leader(rounds: RoundDriver) -> str:
    """Name of the leader, where others could lead; "" where there is only one voter."""
    leadership = rounds.voter.leadership
    return leadership.name(leadership.leader) if len(leadership.voters) > 1 else ""


def _peer(member: Member, now: float, wrote: int) -> m.PeerStatus:
    return m.PeerStatus(
        member.index,
        member.key,
        member.here,
        member.doing,
        member.step,
        member.loss if math.isfinite(member.loss) else 0.0,
        now - member.heard if member.heard else 0.0,
        member.counted,
        wrote,
    )
