"""Why a machine cannot take part, or would do so badly: each link of the chain is tried by itself, and
what was found is said with whose side it is on and what to do. Nothing is begun by it."""

import asyncio
import contextlib
import errno
import ipaddress
import time
from collections.abc import Iterable
from typing import Literal

import msgspec

from duckweed.net import tcp
from duckweed.net.identity import Identity
from duckweed.net.timeouts import DOCTOR_TRY, within
from duckweed.net.transport import Endpoint, Link, LinkError, is_loopback, is_relay
from duckweed.swarm.protocol import messages as m
from duckweed.swarm.protocol.client import AnswerError, Client, QuestionRefused
from duckweed.swarm.protocol.invitation import Invitation

CLOCK = 60.0  # seconds by which two clocks may differ before it is reported

Reached = Literal["open", "refused", "silent", "no network", "somebody else", "failed"]


class Finding(msgspec.Struct, frozen=True):
    """One link of the chain between this machine and a run."""

    what: str
    state: Literal["good", "poor", "bad"]
    """poor: taking part works without it; bad: it does not."""
    words: str
    """What was found, on whose side it is, what to do."""


class Facts(msgspec.Struct):
    """What was tried, and how it went."""

    tcp: dict[str, Reached] = {}
    """ip:port of the coordinator -> whether it could be reached there over TCP."""
    udp: bool = False
    """Whether the coordinator answered over UDP, without a relay."""
    relays: dict[str, Reached] = {}
    """URL of a relay -> whether it could be reached."""
    relayed: list[str] = []
    """URLs of the relays through which the coordinator answered."""
    port: str = ""
    """UDP port of this machine's end."""
    own: list[str] = []
    """Addresses of this machine's end, ip:port."""
    seen: str = ""
    """ip:port at which the coordinator sees this machine."""
    trip: float = 0.0
    """Seconds of a round trip."""
    clock: float = 0.0
    """Seconds by which the coordinator's clock is ahead of this one."""
    info: m.RunInfo | None = None
    """What the coordinator tells a guest about the run."""
    fault: AnswerError | None = None
    """Why it did not tell."""


async def examine(invitation: Invitation, identity: Identity) -> Facts:
    """Try everything. Raises LinkError only if this machine cannot open a socket."""
    direct = [x for x in invitation.addresses if not is_relay(x)]
    relays = [x for x in invitation.addresses if is_relay(x)]
    facts = Facts()
    tried = await asyncio.gather(
        *(_tls(identity, invitation.coordinator, x) for x in direct), *map(_port, relays)
    )
    facts.tcp = dict(zip(direct, tried[: len(direct)], strict=True))
    facts.relays = dict(zip(relays, tried[len(direct) :], strict=True))
    await _try(facts, invitation, identity, direct)
    for url in relays:  # even if the direct way works: others will need them
        if facts.relays[url] == "open":
            await _try(facts, invitation, identity, [url])
    return facts


async def _try(
    facts: Facts, invitation: Invitation, identity: Identity, addresses: list[str]
) -> None:
    """Call the coordinator by iroh, directly or through a relay."""
    if not addresses:
        return
    endpoint = await Endpoint.toward(identity, m.HEAD_LIMIT, addresses)
    try:
        link = await endpoint.connect(invitation.coordinator, addresses, DOCTOR_TRY)
        if is_relay(addresses[0]):
            facts.relayed.append(addresses[0])
        else:
            facts.udp = True
            facts.port = endpoint.bound[0].rpartition(":")[2]
            facts.own = endpoint.addresses
        await _talk(facts, link, invitation)
        link.close()
    except LinkError:
        return
    finally:
        await endpoint.close()


async def _talk(facts: Facts, link: Link, invitation: Invitation) -> None:
    if facts.info or facts.fault:
        return
    began = time.time()
    pong = await link.ping()
    facts.trip = time.time() - began
    facts.seen, facts.clock = pong.seen, pong.clock - (began + facts.trip / 2)
    try:
        question = m.GetRunInfo(m.PROTOCOL, invitation.secret)
        facts.info, _ = await Client(link).ask(question)
    except AnswerError as error:
        facts.fault = error


async def _tls(identity: Identity, coordinator: str, address: str) -> Reached:
    try:
        _, writer = await within(DOCTOR_TRY, tcp.dial(identity, coordinator, address))
    except LinkError:
        return "somebody else"
    except (OSError, ValueError, asyncio.IncompleteReadError) as error:
        return _outcome(error)
    writer.transport.abort()
    return "open"


async def _port(url: str) -> Reached:
    """Whether something listens where a relay should be."""
    host, _, port = url.partition("//")[2].rstrip("/").rpartition(":")
    try:
        number = int(port) if port.isdigit() else 443 if url.startswith("https") else 80
        opened = asyncio.open_connection((host or port).strip("[]"), number)
        _, writer = await within(DOCTOR_TRY, opened)
    except (OSError, ValueError) as error:
        return _outcome(error)
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return "open"


def _outcome(error: Exception) -> Reached:
    if isinstance(error, ConnectionRefusedError):
        return "refused"
    if isinstance(error, TimeoutError):
        return "silent"
    here = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EADDRNOTAVAIL)
    return "no network" if getattr(error, "errno", None) in here else "failed"


# --- what it means


def findings(invitation: Invitation, facts: Facts) -> list[Finding]:
    """What the facts mean, in the order of the chain. A pure function."""
    found = [_way(invitation, facts)]
    if facts.udp or facts.relayed:
        found += [_udp(facts), _tcp(facts), *_relays(facts), _nat(facts), _clock(facts)]
        found.append(_version(facts))
    return found


def _way(invitation: Invitation, facts: Facts) -> Finding:
    """Whether the coordinator is reached at all; if not, whose side it is on."""
    what = "coordinator"
    if facts.udp:
        return Finding(what, "good", f"answers directly, {1e3 * facts.trip:.0f} ms away")
    if facts.relayed:
        return Finding(what, "good", "answers through a relay")
    tried, direct = [*facts.tcp.values(), *facts.relays.values()], list(facts.tcp)
    if tried and all(x == "no network" for x in tried):
        words = (
            "this machine has no way into the network. It is on your side: look at its connection"
        )
    elif "somebody else" in tried:
        words = (
            "somebody else answers at its address. It is on the organiser's side: the address was "
            "given to another machine, or the run has a new key; ask for a new invitation"
        )
    elif direct and all(map(is_loopback, direct)):
        words = (
            "nobody serves the run on this machine, and the invitation names addresses of the "
            "organiser's own machine only (127.0.0.1). If this is that machine, the run has ended or "
            "is stopped (duckweed serve RUN goes on); if not, the organiser must serve with "
            "--listen 0.0.0.0:PORT"
        )
    elif "open" in facts.tcp.values():
        words = (
            "TCP gets through and UDP does not, and no relay answered. A firewall drops UDP: on your "
            "side if this is the network of a firm or school (try another, such as a telephone's), "
            "else on the organiser's, whose router must forward UDP as well"
        )
    elif "refused" in tried:
        words = (
            "its machine is there, but nobody serves the run on it. It is on the organiser's side: "
            "the run has ended or is stopped (duckweed serve RUN goes on), or got another port"
        )
    elif direct and all(map(_private, direct)):
        words = (
            "no answer, and the invitation names only addresses of a private network. Either you are "
            "in another network than the organiser, who must then forward a port and serve with "
            "--public IP:PORT, or its machine is off"
        )
    else:
        words = (
            "no answer at all at its addresses. If other pages of the internet work here, it is on "
            "the organiser's side: the machine is off, or a router or firewall does not let "
            f"{', '.join(direct) or 'the relay'} through"
        )
    return Finding(what, "bad", words)


def _udp(facts: Facts) -> Finding:
    if facts.udp:
        return Finding("UDP", "good", "gets through")
    return Finding(
        "UDP",
        "poor",
        "does not get through to the coordinator; a relay carries everything, more slowly. Either "
        "this network drops UDP (then another network helps), or the organiser cannot be reached "
        "directly",
    )


def _tcp(facts: Facts) -> Finding:
    if "open" in facts.tcp.values():
        return Finding("TCP", "good", "gets through; large pieces go this way")
    ports = ", ".join(sorted({x.rpartition(":")[2] for x in facts.tcp}))
    return Finding(
        "TCP",
        "poor",
        f"does not get through to port {ports}; it works without, more slowly where packets are "
        "lost. The organiser can open the port for TCP as well",
    )


def _relays(facts: Facts) -> Iterable[Finding]:
    for url, outcome in facts.relays.items():
        if url in facts.relayed:
            yield Finding("relay", "good", f"{url} works")
        else:
            yield Finding(
                "relay",
                "poor",
                f"{url} {'passes nothing on' if outcome == 'open' else f'cannot be reached ({outcome})'}; peers "
                "that cannot reach each other directly fetch from the coordinator. The organiser "
                "must open its TCP port",
            )


def _nat(facts: Facts) -> Finding:
    if not facts.udp:
        return Finding("NAT", "poor", "not known: nothing came directly")
    if facts.seen in facts.own:
        return Finding("NAT", "good", f"none: this machine is seen at its own address {facts.seen}")
    if facts.seen.rpartition(":")[2] == facts.port:
        return Finding(
            "NAT", "good", f"seen at {facts.seen}, port kept: others can be let in from inside"
        )
    return Finding(
        "NAT",
        "poor",
        f"seen at {facts.seen}, not at port {facts.port}: peers in such networks may need a relay "
        "to reach each other; nothing to do",
    )


def _clock(facts: Facts) -> Finding:
    if abs(facts.clock) < CLOCK:
        return Finding(
            "clock", "good", f"differs by {abs(facts.clock):.1f} s from the coordinator's"
        )
    way = "behind" if facts.clock > 0 else "ahead of"
    return Finding(
        "clock",
        "poor",
        f"{abs(facts.clock):,.0f} s {way} the coordinator's, one of the two is wrong. Training does "
        "not mind; --hours here and the expiry of invitations there go by it",
    )


def _version(facts: Facts) -> Finding:
    if facts.info:
        words = f"round {facts.info.round}, {facts.info.peers} peers here"
        return Finding("admission", "good", f"same version; you would be let in ({words})")
    if isinstance(facts.fault, QuestionRefused):
        return Finding("admission", "bad", f"the coordinator says: {facts.fault.reason}")
    if facts.fault:
        return Finding("admission", "bad", str(facts.fault))
    return Finding("admission", "bad", "the coordinator broke off; ask the organiser to look")


def _private(address: str) -> bool:
    try:
        return ipaddress.ip_address(address.rpartition(":")[0].strip("[]")).is_private
    except ValueError:
        return False
