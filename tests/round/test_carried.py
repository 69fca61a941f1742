"""What a peer carries, as it is shown: read back as it was, or refused with a reason."""

import numpy as np
import pytest
from fixtures.golden import LAYOUT
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save

from duckweed.round.carried import Carried, Handed, carried_limit, distances, packed, unpacked

RESIDUAL = np.linspace(-1, 1, LAYOUT.total, dtype=np.float32)
MOMENTS = {"momentum": np.ones((40, 24), np.float32), "second": np.full(24, 0.5, np.float32)}


def test_what_is_shown_is_read_back_and_always_the_same_bytes():
    data = packed(Carried(3, RESIDUAL, MOMENTS))
    assert data == packed(Carried(9, RESIDUAL.copy(), dict(reversed(MOMENTS.items()))))
    found = unpacked(data, LAYOUT)
    assert found.residual.tobytes() == RESIDUAL.tobytes()
    assert {name: x.tolist() for name, x in found.optimizer.items()} == {
        name: x.tolist() for name, x in MOMENTS.items()
    }
    assert len(data) <= carried_limit(LAYOUT)


def bad(**arrays):
    return save({"residual": RESIDUAL} | arrays)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "cannot be read"),
        (b"\xff" * 100, "cannot be read"),
        (save({"momentum": RESIDUAL}), "cannot be read"),
        (bad(residual=RESIDUAL[1:]), "another size"),
        (bad(residual=RESIDUAL[None]), "another size"),
        (bad(residual=RESIDUAL.astype(np.float64)), "float64, not float32"),
        (bad(momentum=np.ones(4, np.int8)), "int8, not float32"),
        (bad(residual=np.full_like(RESIDUAL, np.nan)), "not finite"),
        (bad(momentum=np.array([np.inf], np.float32)), "not finite"),
    ],
)
def test_what_no_peer_carries_is_refused_with_a_reason(data, reason):
    with pytest.raises(ValueError, match=reason):
        unpacked(data, LAYOUT)


@given(st.binary(max_size=200), st.integers(0, 60))
def test_damage_of_any_kind_is_refused_or_read_and_nothing_else(noise, at):
    whole = bad(**MOMENTS)
    try:
        found = unpacked(whole[:at] + noise + whole[at + len(noise) :], LAYOUT)
    except ValueError:
        return
    assert found.residual.shape == (LAYOUT.total,)


def handed(residual=RESIDUAL, sent=0.0, **moments):
    sent = np.full(LAYOUT.total, sent, np.float32)
    return Handed(sent, Carried(0, residual, MOMENTS | moments))


def test_distances_are_relative_to_what_was_computed():
    theirs = handed(RESIDUAL * np.float32(1.5), second=np.zeros(24, np.float32))
    found = distances(theirs, handed())
    assert found["wanted"] == pytest.approx(0.5)
    assert (found["momentum"], found["second"]) == (0.0, 1.0)


def test_what_is_sent_in_place_of_being_carried_is_no_distance():
    assert distances(handed(RESIDUAL - np.float32(0.25), 0.25), handed())["wanted"] < 1e-6


def test_other_parts_are_no_distance():
    for wrong in (Carried(0, RESIDUAL, {}), handed(second=np.zeros(3, np.float32)).carried):
        with pytest.raises(ValueError, match="other parts"):
            distances(Handed(RESIDUAL, wrong), handed())
