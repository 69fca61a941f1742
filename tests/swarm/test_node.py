"""Three machines that keep a ledger, over real links that can be cut; peers that only pretend to train."""

import asyncio
import time

import numpy as np
import pytest
from fixtures import pretended
from fixtures.golden import LAYOUT
from fixtures.pretended import COORDINATOR, PEERS, contribution, genesis, state
from msgspec.structs import replace

from duckweed.ledger.entries import RoundEntry
from duckweed.ledger.ledger import Ledger, LedgerError
from duckweed.net.identity import Identity, verify
from duckweed.net.transport import Endpoint, LinkError
from duckweed.run import folder as folders
from duckweed.run import state as states
from duckweed.run.events import RoundClosed
from duckweed.run.spec import override
from duckweed.swarm.coordinator import coordinator
from duckweed.swarm.node import node as room
from duckweed.swarm.node import replica
from duckweed.swarm.node.node import Node
from duckweed.swarm.peer import keeper
from duckweed.swarm.protocol import messages as m

KEYS = {"first": COORDINATOR} | {x: Identity(x.encode().ljust(32, b".")) for x in ("anna", "ben")}
SPEC = override(
    pretended.SPEC,
    {
        "rounds.count": 4,
        "members.successors": [f"{name}:{KEYS[name].id}" for name in ("anna", "ben")],
        "members.absence": 3.0,
    },
)
PATIENCE = 60.0


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(coordinator, "POLL", 0.1)
    monkeypatch.setattr(replica, "POLL", 0.5)
    monkeypatch.setattr(replica, "IN_TOUCH", 2.0)
    monkeypatch.setattr(room, "POLL", 0.5)
    monkeypatch.setattr(room, "RETRY", 0.2)
    monkeypatch.setattr(room, "HANDOVER", 2.0)


class Net:
    """Which of the machines hear each other."""

    def __init__(self):
        self.sides = [set(KEYS)]

    def split(self, *sides):
        self.sides = [set(side) for side in sides]

    def apart(self, one, other):
        return not any({one, other} <= {KEYS[x].id for x in side} for side in self.sides)

    def guard(self, endpoint):
        """Questions, and answers under way, are lost where the line is cut."""
        dial = endpoint.connect

        async def connect(peer, addresses):
            self.check(endpoint.id, peer)
            link = await dial(peer, addresses)
            ask = link.ask

            async def guarded(*words, **more):
                self.check(endpoint.id, peer)
                answer = await ask(*words, **more)
                self.check(endpoint.id, peer)
                return answer

            link.ask = guarded
            return link

        endpoint.connect = connect

    def check(self, one, other):
        if self.apart(one, other):
            raise LinkError("the line is cut")


class Machine:
    """One that keeps the ledger; what it holds on disk outlives `stop`."""

    def __init__(self, base, name, net):
        self.name, self.net = name, net
        self.folder = folders.create(base, name)
        self.said, self.events = [], []

    async def start(self, first=None):
        """first: the machine that an invitation names; None: this one."""
        key = KEYS[self.name]
        self.endpoint = await Endpoint.bind(key, m.HEAD_LIMIT, "127.0.0.1:0")
        self.net.guard(self.endpoint)
        self.ledger = Ledger(self.folder.ledger, key.sign, self.folder.dropped)
        meeting = (KEYS[first.name].id, first.endpoint.offered) if first else (key.id, [])
        self.node = Node(
            self.endpoint, key, self.folder, self.ledger, SPEC, LAYOUT, meeting, self.events.append,
            self.said.append,
        )  # fmt: skip
        self.tasks = [asyncio.create_task(self.node.serve())]
        if first:
            await self.node.copy()
            await self.node.replica.look_for_leader()  # and say where it listens
        self.running = asyncio.create_task(self.node.run())
        self.tasks.append(self.running)

    async def stop(self):
        """As if it were killed."""
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        self.node.replica.close()
        self.ledger.close()
        await self.endpoint.close()

    @property
    def leads(self):
        run = self.node.coordinator
        return run is not None and not run.rounds.deposed

    def rounds(self):
        return list(self.ledger.entries(RoundEntry))

    # --- as peers use it

    async def ask(self, number, question, body=b""):
        answer, _ = await self.node.handle(PEERS[number].id, question, body)
        return answer

    async def admit(self, secret=""):
        for number in range(3):
            answer = await self.ask(number, m.Join(m.PROTOCOL, secret))
            assert answer.index == number, answer

    async def work(self, round_, peers=(0, 1, 2)):
        """The work of these peers for a round, once it is open."""
        question = m.Next(round_, state(round_), False)
        tasks = [await until(lambda n=n: self.told(n, question, m.Train)) for n in peers]
        for number, task in zip(peers, tasks, strict=True):
            answer = await self.ask(number, *contribution(SPEC, number, task))
            assert isinstance(answer, m.Ack), answer

    async def told(self, number, question, kind):
        answer = await self.ask(number, question)
        return answer if isinstance(answer, kind) else None

    async def round(self, round_, peers=(0, 1, 2)):
        """All of a round, by some of the peers, until they are told how it closed."""
        await self.work(round_, peers)
        question = m.Next(round_, state(round_), True)
        answers = [await until(lambda n=n: self.told(n, question, m.Apply)) for n in peers]
        return answers[0].closed


async def until(true):
    """The first answer that is not false."""

    async def ask():
        while True:
            found = true()
            found = await found if asyncio.iscoroutine(found) else found
            if found:
                return found
            await asyncio.sleep(0.05)

    return await asyncio.wait_for(ask(), PATIENCE)


def play(base, scene):
    """A run that has begun, with three machines and three peers."""

    async def all_of_it():
        net = Net()
        machines = [Machine(base, name, net) for name in KEYS]
        first, *others = machines
        ledger = Ledger(first.folder.ledger, KEYS["first"].sign)
        ledger.append(0, genesis(SPEC, KEYS["first"].id))
        ledger.close()
        try:
            await first.start()
            await until(lambda: first.leads)
            for machine in others:
                await machine.start(first)
            await first.admit(first.folder.read_secret())
            await asyncio.wait_for(scene(net, *machines), 4 * PATIENCE)
        finally:
            for machine in machines:
                await machine.stop()
        for machine in machines:
            ledger = Ledger(machine.folder.ledger)
            assert ledger.verify(verify)
            ledger.close()

    asyncio.run(all_of_it())


async def told_by(machines, question):
    """How a round closed, and who says so: the leader, which knows the peers."""
    for machine in machines:
        if machine.leads:
            await machine.admit()
            if answer := await machine.told(0, question, m.Apply):
                return machine, answer
    return None


def alike(machines):
    return len({machine.ledger.head for machine in machines}) == 1


def test_two_coordinators_never_close_the_same_round(tmp_path):
    async def scene(net, first, anna, ben):
        before = await first.round(0)
        await until(lambda: alike([first, anna, ben]))
        net.split(["first"], ["anna", "ben"])
        # The cut-off coordinator goes on as far as it can: not to the end of a round.
        await first.work(1)
        await until(lambda: len(first.rounds()) == 2)
        await until(lambda: anna.leads)
        await anna.admit()
        closed = await anna.round(1, peers=[0, 2])
        assert closed.accepted == [0, 2]
        question = m.Next(1, state(1), True)
        answer = await first.ask(1, question)
        assert isinstance(answer, m.Wait)
        assert "2 of 3" in answer.reason
        assert [e.round for e in first.events if isinstance(e, RoundClosed)] == [
            0
        ]  # nor is it told
        net.split(KEYS)
        await until(lambda: not first.leads)
        await until(lambda: alike([first, anna, ben]))
        assert [e.body.closed.accepted for e in first.rounds()] == [[0, 1, 2], [0, 2]]
        assert first.folder.dropped.read_text().count('"round"') == 1
        assert (await first.ask(1, question)).key == KEYS["anna"].id
        assert await anna.ask(1, m.Next(0, state(0), False)) == m.Apply(before)
        await anna.round(2)

    play(tmp_path, scene)


def test_without_a_majority_nothing_is_closed_and_with_it_the_run_goes_on(tmp_path):
    async def scene(net, first, anna, ben):
        await first.round(0)
        await until(lambda: alike([first, anna, ben]))
        net.split(["first"], ["anna"], ["ben"])
        await first.work(1)
        await until(lambda: len(first.rounds()) == 2)
        replica, patience = anna.node.replica, 2 * SPEC.members.absence
        await until(lambda: time.monotonic() - replica.heard > patience)  # it has stood in vain
        assert not anna.leads
        assert not ben.leads
        assert isinstance(await first.ask(0, m.Next(1, state(1), True)), m.Wait)
        net.split(["first", "ben"], ["anna"])  # as many as are needed
        # Either hears the other first: ben the coordinator, or the coordinator that ben stands.
        question = m.Next(1, state(1), True)
        leader, told = await until(lambda: told_by([first, ben], question))
        assert told.closed.accepted == [0, 1, 2]
        net.split(KEYS)
        await until(lambda: alike([first, anna, ben]))
        for round_ in (2, 3):
            await leader.round(round_)
        for number in range(3):
            await leader.ask(number, m.Next(4, state(4), False))
        for number in range(3):
            await until(lambda n=number: leader.told(n, m.Next(4, state(4), False), m.Stop))
            await leader.ask(number, m.Leave("done"))
        # The end is heard by all.
        for machine in (first, anna, ben):
            await asyncio.wait_for(machine.running, PATIENCE)
            assert machine.node.over == "all rounds are done"
        assert alike([first, anna, ben])

    play(tmp_path, scene)


def test_a_leader_that_is_gone_is_not_waited_for_longer_than_it_may_be_silent(
    tmp_path, monkeypatch
):
    async def scene(net, first, anna, ben):
        await first.round(0)
        await until(lambda: alike([first, anna, ben]))
        lasted = []

        async def connect(peer, addresses):  # nothing comes back from where it was
            began = time.monotonic()
            try:
                await asyncio.sleep(PATIENCE)
            finally:
                lasted.append(time.monotonic() - began)

        await first.stop()
        monkeypatch.setattr(anna.endpoint, "connect", connect)
        anna.node.replica.close()
        with pytest.raises(LinkError, match="does not answer"):
            await anna.node.replica.ask(KEYS["first"].id, m.GetLeader([]))
        assert max(lasted) < replica.CANVASS

    play(tmp_path, scene)


def test_a_killed_coordinator_that_comes_back_in_time_goes_on(tmp_path):
    async def scene(net, first, anna, ben):
        await first.round(0)
        await until(lambda: alike([first, anna, ben]))
        await first.stop()
        await first.start()
        await until(lambda: first.leads)
        await first.admit(first.folder.read_secret())
        await first.round(1)
        await until(lambda: alike([first, anna, ben]))
        assert first.ledger.leadership.term == 0

    play(tmp_path, scene)


def test_a_machine_that_was_away_takes_over_what_it_lacks_and_goes_on(tmp_path):
    """ben alone has the last round; anna, next in line, gets it from there with its blobs."""

    async def scene(net, first, anna, ben):
        await first.round(0)
        await until(lambda: alike([first, anna, ben]))
        net.split(["first", "ben"], ["anna"])
        closed = await first.round(1)
        assert len(anna.rounds()) == 1
        await first.stop()
        net.split(["anna", "ben"], ["first"])
        await until(lambda: anna.leads or ben.leads)
        leader = anna if anna.leads else ben
        await leader.admit()
        answer = await until(lambda: leader.told(0, m.Next(1, state(1), True), m.Apply))
        assert answer.closed == closed
        for digest in closed.needed():
            assert leader.folder.blob(digest).exists()
        await first.start()

    play(tmp_path, scene)


def test_a_leader_that_is_stopped_sends_no_peer_home_where_a_successor_goes_on(tmp_path):
    async def scene(net, first, anna, ben):
        await first.work(0, peers=[0])
        asking = asyncio.create_task(first.ask(0, m.Next(0, state(0), True)))
        await asyncio.sleep(0)
        await first.node.stop("stopped")
        assert isinstance(await asking, m.Wait)

    play(tmp_path, scene)


def test_a_voter_that_lacks_a_state_gets_that_of_another_and_keeps_none_but_the_agreed_one(
    tmp_path, monkeypatch
):
    made = states.first(LAYOUT, np.ones(LAYOUT.total, np.float32))
    begun = replace(genesis(SPEC, KEYS["first"].id), state=made.hash())
    monkeypatch.setitem(globals(), "genesis", lambda spec, key: begun)

    async def scene(net, first, anna, ben):
        await until(lambda: alike([first, anna, ben]))
        for machine in (first, anna, ben):
            machine.folder.states.mkdir(exist_ok=True)
        replace(made, weights=made.weights + 1).save(anna.folder.state(0))
        await keeper.fetch_state(ben.folder, ben.node, ben.said.append)
        assert not ben.folder.saved_rounds()
        made.save(first.folder.state(0))
        await keeper.fetch_state(ben.folder, ben.node, ben.said.append)
        assert states.load(ben.folder.state(0), LAYOUT).hash() == made.hash()
        stranger, _ = await first.node.handle("ab" * 32, m.GetSavedState(), b"")
        assert isinstance(stranger, m.Refused)

    play(tmp_path, scene)


def test_a_lost_ledger_is_not_begun_anew(tmp_path):
    async def scene():
        machine = Machine(tmp_path, "first", Net())
        await machine.start()
        with pytest.raises(LedgerError, match="lost its ledger"):
            await machine.running
        await machine.stop()
        assert Ledger(machine.folder.ledger).number == -1

    asyncio.run(scene())


def test_strangers_are_told_nothing_of_the_ledger(tmp_path):
    async def scene(net, first, anna, ben):
        stranger = Identity(b"s" * 32).id
        for question in (
            m.GetEntries(0, -1, ""),
            m.GetLeader(),
            m.RequestVote(1, True),
            m.GetEntryRange(0, 0, ""),
        ):
            with pytest.raises(ValueError, match="takes no part"):
                await anna.node.handle(stranger, question, b"")
        for question in (m.RequestVote(1, True), m.GetEntryRange(0, 0, "")):  # nor do peers elect
            with pytest.raises(ValueError, match="does not vote"):
                await first.ask(0, question)
        answer, _ = await anna.node.handle(stranger, m.Join(m.PROTOCOL, "x"), b"")
        assert "the leader of the run is the first coordinator" in answer.reason

    play(tmp_path, scene)
