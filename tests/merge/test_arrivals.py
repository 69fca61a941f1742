"""Contributions that were taken as they arrived: the round closes as if none had been, with less left to do."""

from collections import Counter

import msgspec
import numpy as np
import pytest
from fixtures.golden import CASES, FIXED, LAYOUT, announce, numbers
from hypothesis import given, settings
from hypothesis import strategies as st

from duckweed.merge.announcement import Announcement
from duckweed.merge.round import blob_hash
from duckweed.round.engine import Engine, MemoryBlobs
from duckweed.run.spec import RunSpec, override
from duckweed.wire import codec_of
from duckweed.wire.codecs.integer import Codes
from duckweed.wire.codecs.sums import Sums

SHARED = [0.375] * len(LAYOUT.names)
EVERY_RULE = [*CASES, "integer-1 filtered"]


class Counting(MemoryBlobs):
    """Blobs that count how often each is read."""

    def __init__(self, blobs: dict[str, bytes]) -> None:
        super().__init__(blobs)
        self.reads: Counter[str] = Counter()

    def read(self, digest: str) -> bytes:
        self.reads[digest] += 1
        return self[digest]


def specification(case: str) -> RunSpec:
    wire = CASES[f"{case.split()[0]} mean"]
    return override(RunSpec(), FIXED | wire | {"merge.rule": case.split()[1]})


def whole(spec: RunSpec) -> int:
    """Tokens of a whole block."""
    return spec.schedule.steps_of(0) * spec.tokens_per_step


def contribution(spec: RunSpec, peer: int, tokens: int, factor: float = 1.0):
    wanted = numbers(50 + peer, LAYOUT.total) * np.float32(factor)
    blob = codec_of(spec.wire, LAYOUT).encode(wanted, np.array(SHARED, np.float32)).blob
    return announce(0, peer, blob, wanted, tokens), blob


def begun(spec: RunSpec, handed: list, early: list[Announcement]):
    """The blobs that were handed in, an engine, and what it has taken already."""
    blobs = Counting({said.blob: blob for said, blob in handed})
    engine = Engine(spec, LAYOUT, blobs)
    arrivals = engine.arrivals(SHARED)
    for said in early:
        engine.take(arrivals, said)
    return blobs, engine, arrivals


def closed(spec: RunSpec, handed: list, early: list[Announcement]):
    """How the round closes, its update, and how often blobs were read when it closed."""
    blobs, engine, arrivals = begun(spec, handed, early)
    before = blobs.reads.copy()
    found = engine.close(SHARED, [said for said, _ in handed], arrivals=arrivals)
    senders = Counter(said.blob for said, _ in handed)
    assert all(count <= 2 * senders[blob] for blob, count in blobs.reads.items())
    return found, blobs.get(found.update or "", b""), blobs.reads - before


@pytest.mark.parametrize("case", EVERY_RULE)
@settings(max_examples=12, deadline=None)
@given(data=st.data())
def test_a_round_closes_as_if_nothing_had_been_taken_before(case, data):
    spec = specification(case)
    shares = data.draw(
        st.lists(st.sampled_from([0.25, 0.5, 1.0, 1.0, 1.0]), min_size=1, max_size=6)
    )
    handed = [
        contribution(
            spec, peer, int(share * whole(spec)), data.draw(st.sampled_from([1.0, 1.0, 40.0]))
        )
        for peer, share in enumerate(shares)
    ]
    fault = data.draw(st.sampled_from(["none", "copy", "cut", "size"]))
    said, blob = handed[0]
    if fault == "copy":
        handed.append((msgspec.structs.replace(said, peer=len(handed)), blob))
    elif fault == "cut":
        handed[0] = msgspec.structs.replace(said, blob=blob_hash(blob[:-3])), blob[:-3]
    elif fault == "size":
        handed[0] = msgspec.structs.replace(said, rms=[-1.0] * len(SHARED)), blob
    order = data.draw(st.permutations([one for one, _ in handed]))
    early = order[: data.draw(st.integers(0, len(order)))]
    assert closed(spec, handed, early)[:2] == closed(spec, handed, [])[:2]


@pytest.mark.parametrize("rule", ["mean", "bounded"])
def test_where_all_have_arrived_before_nothing_is_read_again(rule):
    spec = specification(f"integer-3 {rule}")
    handed = [contribution(spec, peer, whole(spec)) for peer in range(5)]
    early = [handed[n][0] for n in (3, 0, 4, 2, 1)]
    found, update, reads = closed(spec, handed, early)
    assert found.accepted == [0, 1, 2, 3, 4]
    assert update
    assert not reads


def test_a_contribution_of_less_than_a_block_is_read_once_more_and_no_other():
    spec = specification("integer-3 mean")
    handed = [contribution(spec, peer, whole(spec) // (1 + (peer == 2))) for peer in range(4)]
    found, _, reads = closed(spec, handed, [said for said, _ in handed])
    assert found.weights == [2, 2, 1, 2]
    assert reads == {handed[2][0].blob: 1}


@pytest.mark.parametrize("late", [0, 3])
def test_what_comes_at_the_last_moment_costs_one_reading_each(late):
    """Peer 0 has trained half a block."""
    spec = specification("integer-3 mean")
    handed = [contribution(spec, peer, whole(spec) // (1 + (peer == 0))) for peer in range(6)]
    early = [said for said, _ in handed if said.peer != late]
    found, update, reads = closed(spec, handed, early)
    assert found.weights == [1, 2, 2, 2, 2, 2]
    assert sum(reads.values()) == 2
    assert (found, update) == closed(spec, handed, [])[:2]


def test_a_sum_that_could_not_be_added_to_is_formed_anew(monkeypatch):
    spec = specification("integer-3 mean")
    handed = [contribution(spec, peer, whole(spec)) for peer in range(3)]
    blobs, engine, arrivals = begun(spec, handed, [handed[0][0]])

    def half(total: Sums, contribution: Codes, weight: int) -> None:
        total.sums[: LAYOUT.total // 2] += contribution.codes[: LAYOUT.total // 2]
        raise MemoryError

    with monkeypatch.context() as change:
        change.setattr(Sums, "add", half)
        with pytest.raises(MemoryError):
            engine.take(arrivals, handed[1][0])
    found = engine.close(SHARED, [said for said, _ in handed], arrivals=arrivals)
    assert (found, blobs[found.update]) == closed(spec, handed, [])[:2]


def test_what_is_refused_after_it_was_added_leaves_no_trace():
    spec = specification("integer-3 mean")
    handed = [contribution(spec, peer, whole(spec)) for peer in range(4)]
    stays = handed[:3]
    found, update, _ = closed(spec, stays, [said for said, _ in stays])
    blobs, engine, arrivals = begun(spec, handed, [said for said, _ in handed])
    assert engine.close(SHARED, [said for said, _ in stays], arrivals=arrivals) == found
    assert blobs[found.update] == update
