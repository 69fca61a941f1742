"""What is said is understood; what is not in the schema is refused."""

from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from duckweed.ledger.entries import Closed, Writing
from duckweed.ledger.succession import Vote
from duckweed.merge.announcement import Announcement
from duckweed.round.open_round import Timings
from duckweed.round.signed import signed_part
from duckweed.run.task.written import Written
from duckweed.swarm.protocol import messages as m

ANNOUNCEMENT = Announcement(3, 1, 7, "ab" * 32, 100, 512, 4, 2.5, [0.5, 1.0])
CLOSED = Closed(3, [0, 2], ["aa", "bb"], [1, 2], {1: "late"}, None, [0.25])
CONTRIBUTE = m.Contribute(ANNOUNCEMENT, b"s" * 64, Timings(train=1.5), 10.0, 4)
WRITING = Writing(3, 1, 7, 0, 4, 512, 0.5, "cd" * 32)
WROTE = msgspec.structs.replace(ANNOUNCEMENT, rollouts="cd" * 32)
QUESTIONS = [
    m.Join(m.PROTOCOL),
    m.Join(m.PROTOCOL, "s", ["10.77.0.2:7000"]),
    m.Join(m.PROTOCOL, writes=True),
    m.GetRunInfo(m.PROTOCOL, "s"),
    m.Probe(1000),
    m.GetStatus(m.PROTOCOL),
    m.GetPaths(m.PROTOCOL, "s"),
    m.GetRouter(m.PROTOCOL),
    m.Next(4, "cd" * 32, True),
    m.Progress("training", 4, 2, 3.5),
    CONTRIBUTE,
    m.Contribute(WROTE, b"s" * 64, Timings(), written=Written(problems=2, answers=16, reward=0.5)),
    m.Wrote(WRITING, b"s" * 64, Written(problems=2, answers=16, reward=8.0)),
    m.Fetch("ef" * 32),
    m.Fetch("ef" * 32, True),
    m.GetBlobPiece("ef" * 32, 3),
    m.GetDonors(),
    m.IsMember("ab" * 32),
    m.Leave("done"),
    m.Shown("ef" * 32),
    m.Audited(4, 1, True, False, "4 steps, distance 2", b"s" * 64),
    m.GetSavedState(),
    m.GetStatePiece(10, 1 << 22),
    m.Ahead(4),
    m.GetEntries(2, 17, "ab" * 32),
    m.GetCopiedEntries(17, "ab" * 32),
    m.GetEntryRange(3, 17, "ab" * 32),
    m.RequestVote(5, True),
    m.GetLeader(["10.77.0.2:7000"]),
]
ANSWERS = [
    m.Welcome(1, "seed = 0\n", -1, "layout", "tokens"),
    m.SavedState(10, 1 << 20, [b"h" * 32]),
    m.BlobManifest(1 << 20, [b"h" * 32], [m.PeerAddress("ab" * 32, ["10.77.0.2:7000"])]),
    m.DonorList({3: "cd" * 32}, [m.PeerAddress("ab" * 32, [])]),
    m.RunInfo("seed = 0\n", "layout", "tokens", 3, 2, 100, 200),
    m.Paths([m.PathOffer("ab" * 32, "cd" * 32, ["10.77.0.2:7000"], "s", 2, 1, 3, 4096)]),
    m.Status(
        "ab" * 32,
        3,
        10,
        1,
        [m.PeerStatus(0, "cd" * 32, True, "training", 1, 2.5, 0.5, 3)],
        2.5,
        None,
        1.5,
        "",
        {"control": [1, 2]},
        {"strangers": 3},
    ),
    m.Train(4, 9, 0, 3, True),
    m.Train(4, 9, 0, 3, True, answers=(WRITING,)),
    m.Write(4, 9, 0, 2),
    m.Apply(CLOSED),
    m.Apply(CLOSED, (3, 2), ("ef" * 32,)),
    m.Audit(3, 1, 7, 0, 4, 512, 2.5, "ab" * 32, "", "cd" * 32),
    m.Wait("for peer 2"),
    m.Stop("over", fault=True),
    m.Blob(),
    m.Ack(),
    m.Ack(2.5),
    m.Refused("no"),
    m.LedgerEntries(2, 17, "ab" * 32, True, 16, [m.PeerAddress("ab" * 32, ["10.77.0.2:7000"])]),
    m.LedgerEntries(2, 1, "ab" * 32, True, 16, [], m.PeerAddress("cd" * 32, ["10.77.0.2:7000"])),
    m.VoteReply(5, Vote(b"s" * 64, 2, 17, "ab" * 32), ""),
    m.VoteReply(5, None, "term 5 was promised before"),
    m.Leader(2, "ab" * 32, [m.PeerAddress("ab" * 32, ["10.77.0.2:7000"])]),
]
GOLDEN = Path(__file__).with_name("messages.txt").read_text("ascii").split()


def packed(message, **changes):
    facts = msgspec.msgpack.decode(m.encode(message)) | changes
    return msgspec.msgpack.encode({k: v for k, v in facts.items() if v is not ...})


@pytest.mark.parametrize("message", QUESTIONS, ids=lambda x: type(x).__name__)
def test_questions_arrive_as_they_were_asked(message):
    assert m.question(m.encode(message)) == message
    with pytest.raises(msgspec.ValidationError):
        m.answer(m.encode(message))


@pytest.mark.parametrize("message", ANSWERS, ids=lambda x: type(x).__name__)
def test_answers_arrive_as_they_were_given(message):
    assert m.answer(m.encode(message)) == message
    with pytest.raises(msgspec.ValidationError):
        m.question(m.encode(message))


@pytest.mark.parametrize(
    ("message", "golden"),
    list(zip([*QUESTIONS, *ANSWERS], GOLDEN, strict=True)),
    ids=lambda x: type(x).__name__,
)
def test_messages_are_the_same_bytes_in_every_version_of_the_protocol(message, golden):
    assert m.encode(message).hex() == golden


@pytest.mark.parametrize(
    "head",
    [
        packed(m.Next(4, "x", True), **{"is": "destroy"}),
        packed(m.Next(4, "x", True), **{"is": ...}),
        packed(m.Next(4, "x", True), more=1),
        packed(m.Next(4, "x", True), round="4"),
        packed(m.Next(4, "x", True), round=4.5),
        packed(m.Next(4, "x", True), hash=...),
        packed(m.Next(4, "x", True), contributed=None),
        packed(m.Progress("training", 1), doing="idling"),
        packed(CONTRIBUTE, announcement={"round": 1}),
        packed(CONTRIBUTE, timings={"train": "long"}),
        b"",
        b"\xff" * 20,
        b"\x91" * 100_000,
        m.encode(m.Fetch("x")) + b"\x00",
    ],
)
def test_what_is_not_in_the_schema_is_refused(head):
    with pytest.raises(msgspec.DecodeError):
        m.question(head)


@given(st.binary(max_size=200))
def test_noise_is_refused_and_nothing_else_happens(head):
    for read in (m.question, m.answer):
        with pytest.raises(ValueError):  # noqa: PT011  (msgspec's errors are of many words)
            read(head)


@given(st.sampled_from(QUESTIONS), st.data())
def test_a_message_cut_short_is_refused(message, data):
    head = m.encode(message)
    with pytest.raises(msgspec.DecodeError):
        m.question(head[: data.draw(st.integers(0, len(head) - 1))])


def test_every_field_of_an_announcement_is_signed():
    seen = {signed_part("aa", WROTE)}
    for name in WROTE.__struct_fields__:
        value = getattr(WROTE, name)
        other = value + "x" if isinstance(value, str) else [9.0] if name == "rms" else value + 1
        seen.add(signed_part("aa", msgspec.structs.replace(WROTE, **{name: other})))
    seen.add(signed_part("ab", WROTE))  # the run's first entry
    assert len(seen) == 2 + len(WROTE.__struct_fields__)
