"""Events as lines: what old run folders and other versions hold is read, and nothing else."""

import msgspec
import pytest

from duckweed.run import events
from duckweed.run.events import (
    UNSET,
    ContributionRefused,
    Event,
    FinalLoss,
    Following,
    PeerEnded,
    PeerLeft,
    PeerProgress,
    ProcessFailed,
    Progress,
    RoundClosed,
    RunEnded,
    Said,
    Sampled,
    Serving,
    StateDiffers,
)
from duckweed.run.folder import FolderError, RunFolder

# As versions wrote it whose events were dicts.
OLD = """\
{"event": "said", "text": "round 0: nothing that was handed in counts; it stays open"}
{"event": "round", "round": 0, "time": 1795896251.7, "seconds": 6.3, "tokens": 448, "loss": 5.38, \
"held_out": 5.53, "accepted": [0, 1], "rejected": {"2": "its norm is far from the others'"}, \
"contribution_bytes": [3837, 3749], "update_bytes": 6228, "timings": {"0": {"train": 3.0, "wall": 3.5}}, \
"utilisation": {"0": 0.86}, "traffic": {"contributions": [7763, 0], "updates": [0, 18684]}, "epoch": 0, \
"virtual_clock": 6.3}
{"event": "left", "peer": 2, "reason": "not heard for 30 s"}
{"event": "round", "round": 1, "seconds": 6, "held_out": null}
{"event": "weather", "sun": true}
{"event": "final", "held_out": 4.5, "tokens": 5000}
{"event": "end", "relayed": 0, "traffic": {"control": [10, 20]}, "refused": {"strangers": 3}, "new": 1}
{"event": "round", "round": 2, "sec
"""

EVERY = [
    RoundClosed(round=1, seconds=2.0, rejected={3: "late"}, virtual_clock=4.0),
    FinalLoss(4.5, 2, 5000),
    RunEnded(refused={"strangers": 3}),
    PeerLeft(1, "stopped"),
    ContributionRefused(1, "too late"),
    StateDiffers(1, 2),
    Said("hello"),
    Said("hello", 3),
    Progress(1, [PeerProgress(0, "training", 2, None)], {"control": [1, 2]}),
    Serving("ab", ["0.0.0.0:7000"], ["192.0.2.1:7000"], None),
    Following(),
    PeerEnded(0, "all rounds are done"),
    ProcessFailed("peer", 1, "the disk is full"),
    Sampled(3, "def x(): ..."),
]


def old(tmp_path):
    folder = RunFolder(tmp_path)
    folder.metrics.write_text(OLD)
    return folder


def test_metrics_of_an_old_run_are_read(tmp_path):
    first, second = old(tmp_path).records(RoundClosed)
    assert first.rejected == {2: "its norm is far from the others'"}
    assert first.timings == {0: {"train": 3.0, "wall": 3.5}}
    assert first.virtual_clock == 6.3
    assert (second.seconds, second.held_out, second.traffic) == (6.0, None, {})
    assert second.virtual_clock is UNSET
    (final,) = old(tmp_path).records(FinalLoss)
    assert (final.held_out, final.round, final.tokens) == (4.5, UNSET, 5000)
    (end,) = old(tmp_path).records(RunEnded)
    assert end.refused == {"strangers": 3}


def test_events_come_in_the_order_of_the_file(tmp_path):
    found = list(old(tmp_path).records(RoundClosed, PeerLeft, Said))
    assert [type(event) for event in found] == [Said, RoundClosed, PeerLeft, RoundClosed]


def test_a_wrong_value_is_named_only_to_who_asks_for_such_events(tmp_path):
    folder = RunFolder(tmp_path)
    folder.metrics.write_text('{"event": "round", "round": "one", "seconds": 1}\n' + OLD)
    assert len(list(folder.records(RunEnded))) == 1
    with pytest.raises(FolderError, match=r"metrics\.jsonl.*Expected `int`, got `str`.*round"):
        list(folder.records(RoundClosed))


@pytest.mark.parametrize("event", EVERY, ids=lambda event: type(event).__name__)
def test_an_event_is_one_line_and_is_read_back(event: Event):
    line = events.encode(event)
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    assert events.decode(line) == event


def test_every_kind_is_tried_here():
    assert {type(event) for event in EVERY} == set(events.KINDS.values())


def test_lines_are_as_they_were_when_events_were_dicts():
    assert events.encode(Said("hello")) == b'{"event": "said", "text": "hello"}\n'
    left = PeerLeft(2, "stopped")
    assert events.encode(left) == b'{"event": "left", "peer": 2, "reason": "stopped"}\n'
    assert b'"rejected": {"3": "late"}' in events.encode(EVERY[0])


@pytest.mark.parametrize("line", [b"", b"5", b"[1]", b"{}", b'{"event": 3}', b"\xff", b"hello\n"])
def test_a_line_that_is_no_event_is_none(line):
    assert events.decode(line) is None


def test_an_event_that_lacks_something_is_refused():
    with pytest.raises(msgspec.ValidationError, match="reason"):
        events.decode(b'{"event": "left", "peer": 2}')
