"""A question gets one of the answers that it names, or an error that says what came instead."""

import asyncio

import msgspec
import pytest

from duckweed.swarm.protocol import messages as m
from duckweed.swarm.protocol.client import (
    AnswerError,
    Client,
    NotLeader,
    QuestionRefused,
    understood,
)
from swarm.test_messages import QUESTIONS

GUESTS = m.GetRunInfo(m.PROTOCOL)


class Wire:
    """A connection over which one answer comes back."""

    def __init__(self, head, body=b""):
        self.said, self.asked = (head, body), []

    async def ask(self, head, body=b"", *, body_limit=0, patience=0):
        self.asked.append((m.question(head), body, body_limit))
        return self.said

    def close(self):
        pass


def test_the_answer_and_its_body_come_back():
    wire = Wire(m.encode(m.Blob()), b"noise")
    answer = asyncio.run(Client(wire).ask(m.Probe(5), b"there", body_limit=5))
    assert answer == (m.Blob(), b"noise")
    assert wire.asked == [(m.Probe(5), b"there", 5)]


@pytest.mark.parametrize(
    ("head", "came"),
    [
        (m.encode(m.Stop("over")), "'stop'"),
        (m.encode(m.Next(0, "", False)), "'next'"),
        (msgspec.msgpack.encode({"is": "terms", "spec": 3}), "'terms'"),
        (b"", "0 bytes"),
        (b"\xff" * 20, "20 bytes"),
        (b"\x91" * 100_000, "100000 bytes"),
        (b"\x81\xa2is" + b"\x91" * 100_000, "100004 bytes"),
    ],
)
def test_an_answer_to_another_question_is_an_error_that_names_both(head, came):
    with pytest.raises(AnswerError) as caught:
        understood(GUESTS, head)
    assert "the answer to GetRunInfo is not RunInfo" in str(caught.value)
    assert came in str(caught.value)
    assert "version of duckweed" in str(caught.value)


def test_a_refusal_is_an_error_that_names_the_question_and_the_reason():
    with pytest.raises(QuestionRefused, match="GetRunInfo was refused: not today") as caught:
        understood(GUESTS, m.encode(m.Refused("not today")))
    assert caught.value.reason == "not today"


def test_a_machine_that_does_not_lead_says_which_one_does():
    leader = m.Leader(3, "ab" * 32, [m.PeerAddress("ab" * 32, ["10.77.0.2:7000"])])
    with pytest.raises(NotLeader, match=r"abababab.. does \(term 3\)") as caught:
        understood(m.Next(0, "", False), m.encode(leader))
    assert caught.value.leader == leader
    assert understood(m.GetLeader(), m.encode(leader)) == leader  # here it is what was asked for


def test_every_question_names_answers():
    assert {type(x) for x in QUESTIONS} == set(m.AnyQuestion.__args__)
    for question in QUESTIONS:
        with pytest.raises(AnswerError, match=f"answer to {type(question).__name__} is not [A-Z]"):
            understood(question, b"")


@pytest.mark.parametrize("head", [b"\x81\xa2is\xa1\xff", b"\x81\xa1\xff\xa1a", b"\xff"])
def test_noise_that_is_no_text_is_an_answer_that_makes_no_sense(head):
    with pytest.raises(AnswerError, match="not Blob"):
        understood(m.Probe(5), head)
