"""A family for peers on other machines: its common start, then the coordinators of its paths, side by side.

One invitation leads to all of it, that of the common start: its coordinator answers until the family is finished,
and tells whoever has been let in how to reach the paths. Peers of this machine choose their path as all others do.
"""

import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing

import msgspec

from duckweed import session
from duckweed.family import begin
from duckweed.family.begin import Family
from duckweed.family.folder import COMMON
from duckweed.family.train import Story, Told, hear, trained
from duckweed.net import timeouts
from duckweed.net.timeouts import VIEW
from duckweed.process import environment, serving
from duckweed.process.forkserver import ForkServer
from duckweed.process.local_run import LocalRun
from duckweed.process.serving import Way
from duckweed.round.history import complete
from duckweed.round.run_log import run_log
from duckweed.run import family as rules
from duckweed.run.events import Event, Following, ProcessFailed, Progress, RoundClosed, Serving
from duckweed.session import Say, Session
from duckweed.swarm.coordinator.guest_book import GuestBook
from duckweed.swarm.peer import keeper
from duckweed.swarm.protocol import offers
from duckweed.swarm.protocol.invitation import Invitation, published
from duckweed.swarm.protocol.status import PathOffer

SERVED = "serve"
"""Name of the invitation that `duckweed serve` prints."""
AWAY = ("gone", "silent", "put out")
"""What a peer does that is not here any more (duckweed.swarm.coordinator.admission)."""
Begun = Callable[[Invitation, Serving], None]
Finish = Callable[[], object]


def serve(
    family: Family, way: Way, say: Say, begun: Begun, finish: Finish, train: int = 0
) -> Story:
    """Coordinate what is not trained yet. begun: told the invitation, and where the common start is served; finish:
    called when all is trained, while peers can still ask whether it is over; train: peers of this machine. To close
    the iterator ends the processes in order. Raises RunFailed."""
    together = not rules.paths_of(family.spec).apart
    first, found, own = family.common, _Offers(family), _OwnPeers(train, together)
    with ExitStack() as stack:
        forks = None
        if train and first.device == "cpu":
            forks = stack.enter_context(ForkServer(environment.of_child(first.threads)))

        def local(run: Session, peers: int = 0) -> LocalRun:
            share = first.share(train)
            return stack.enter_context(
                LocalRun(run.folder, run.spec, run.device, run.threads, peers, share, forks)
            )

        common = local(first, 0 if session.trained(first) else train)
        offers.note(first.folder, [])
        at = serving.serve(first.folder, first.spec, common, way, stays=True)
        begun(published(first.folder).with_secret(secret_of(first)), at)
        while not (session.trained(first) and complete(first.folder)):
            yield from (Told(COMMON, first, event) for event in common.heard(VIEW))
        begin.branch(family, say)
        at_work: dict[int, tuple[Session, LocalRun]] = {}
        for path in range(rules.paths_of(family.spec).count):
            run = family.of_path(path)
            over = session.trained(run)
            if not over:
                at_work[path] = run, local(run)
                serving.serve(run.folder, run.spec, at_work[path][1], _shifted(way, path + 1))
            found.add(run, over)
        found.note()
        while at_work:
            for event in common.heard(0.0):
                found.hear(event)
            for path, (run, processes) in list(at_work.items()):
                for told in hear(path, run, processes, VIEW / len(at_work)):
                    found.take(path, told.event)
                    own.take(told.event)
                    yield told
                if processes.over:
                    found.end(path)
                    del at_work[path]
            own.place(
                found.paths, {path: processes for path, (_, processes) in at_work.items()}, say
            )
            found.note()
        if trained(family):
            finish()


def secret_of(run: Session) -> str:
    """The secret of the invitation to a run; "" of one that is open to anybody."""
    if run.spec.members.join == "open":
        return ""
    with closing(GuestBook(run.folder.guests)) as guests:
        return guests.unlimited(SERVED)


def _shifted(way: Way, number: int) -> Way:
    """The way to the coordinator of that number after the first: the next ports, where they were named."""
    return way._replace(
        listen=way.listen and _further(way.listen, number),
        public=[_further(address, number) for address in way.public],
    )


def _further(address: str, number: int) -> str:
    host, _, port = address.rpartition(":")
    return f"{host}:{rules.port_of(int(port), number)}"


class _OwnPeers:
    """The peers of this machine, by their slots: each trains one path after the other."""

    def __init__(self, count: int, together: bool) -> None:
        """together: as of `offers.look_after`."""
        self._together = together
        self._idle = set(range(count))
        self._paths: dict[int, int] = {}  # slot -> the path that it trains
        self._wanted: dict[int, int] = {}  # slot -> the path that needs it more
        self._looked = time.monotonic()

    def take(self, event: Event) -> None:
        """What happened to a path: a peer that has failed trains no other."""
        if isinstance(event, ProcessFailed) and event.role == "peer":
            self._paths.pop(event.slot, None)

    def place(self, paths: list[PathOffer], runs: Mapping[int, LocalRun], say: Say) -> None:
        """Let those that have ended begin with their next path, and now and then some go where few are. paths: all of
        them, in which those who come and go are counted; runs: those that are at work, by path."""
        for slot, path in list(self._paths.items()):
            if path not in runs or slot not in runs[path].slots:
                del self._paths[slot]
                self._idle.add(slot)
        for slot in sorted(self._idle):
            to = self._wanted.pop(slot, None)
            if to is None or paths[to].over:
                to = offers.choose(paths, slot)
            if to is None or to not in runs:
                continue
            runs[to].enlist(slot)
            paths[to].here += 1
            self._paths[slot] = to
            self._idle.remove(slot)
        if time.monotonic() - self._looked > offers.look_after(paths, self._together):
            self._looked = time.monotonic()
            self._move(paths, runs, say)

    def _move(self, paths: list[PathOffer], runs: Mapping[int, LocalRun], say: Say) -> None:
        for slot, path in self._paths.items():
            if (
                slot not in self._wanted
                and (to := offers.stay_or_go(paths, path, self._together)) != path
            ):
                say(offers.going(path, to))
                self._wanted[slot] = to
                paths[path].here -= 1
                runs[path].dismiss(slot)
                return  # the next one when it shows what this has changed


class _Offers:
    """What the common start's coordinator tells of the paths, kept up to date."""

    def __init__(self, family: Family) -> None:
        self._folder = family.common.folder
        self.paths: list[PathOffer] = []
        self._noted: list[PathOffer] = []
        self._runs: list[Session] = []
        self._own: list[PathOffer] = []  # as this machine leads them
        self._looked: dict[int, float] = {}  # path -> when it was looked at who leads it
        # Whether this machine leads the common start, and so is the one that tells.
        self._leads = True

    def add(self, run: Session, over: bool) -> None:
        """The next path, which is served, or over."""
        closed = run_log(run.folder).rounds
        offer = PathOffer(
            run=run.spec.identity,
            coordinator="0" * 64,
            addresses=[],
            secret="",
            wanted=run.spec.rounds.peers,
            rounds=len(closed),
            tokens=sum(one.tokens for one in closed),
            over=over,
        )
        if not over:
            at = published(run.folder)
            offer.coordinator, offer.addresses = at.coordinator, list(at.addresses)
            offer.secret = secret_of(run)
        self.paths.append(offer)
        self._own.append(msgspec.structs.replace(offer))
        self._runs.append(run)

    def hear(self, event: Event) -> None:
        """What happened to the common start."""
        if isinstance(event, Following | Progress):
            self._leads = isinstance(event, Progress)

    def take(self, path: int, event: Event) -> None:
        """What happened to a path."""
        offer = self.paths[path]
        if isinstance(event, RoundClosed):
            offer.rounds, offer.tokens = event.round + 1, offer.tokens + event.tokens
            last = offer.rounds == self._runs[path].spec.schedule.rounds
            offer.over = last and bool(event.accepted)  # else nobody has its last state yet
        elif isinstance(event, Progress):
            offer.here = sum(peer.doing not in AWAY for peer in event.peers)
            own = self._own[path]
            offer.coordinator, offer.addresses = own.coordinator, own.addresses
        elif isinstance(event, Following):
            self._follow(path)

    def _follow(self, path: int) -> None:
        """A successor leads a path: refer to it."""
        if time.monotonic() - self._looked.get(path, -timeouts.PATHS_NOTE) >= timeouts.PATHS_NOTE:
            self._looked[path] = time.monotonic()
            self.paths[path] = keeper.present(self._runs[path].folder, self.paths[path])

    def end(self, path: int) -> None:
        """A path is done."""
        self.paths[path].over, self.paths[path].here = True, 0

    def note(self) -> None:
        """Write it down for the coordinator of the common start, where it has changed. While another machine leads that,
        its coordinator here writes down what it hears there."""
        if not self._leads:
            self._adopt(offers.read(self._folder))
        elif self._noted != self.paths:
            offers.note(self._folder, self.paths)
            self._noted = [msgspec.structs.replace(offer) for offer in self.paths]

    def _adopt(self, told: list[PathOffer]) -> None:
        """Let in whoever has the invitations of the successors that began the paths, and give out those."""
        for path, offer in enumerate(told):
            if offer.secret not in ("", self.paths[path].secret):
                with closing(GuestBook(self._runs[path].folder.guests)) as guests:
                    guests.adopt(offer.secret, keeper.FAMILY)
                self.paths[path].secret = offer.secret
