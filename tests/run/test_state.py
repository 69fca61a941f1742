"""Checkpoints: what is read back is what was written, or it is refused."""

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from duckweed.run.layout import Layout
from duckweed.run.state import State, StateError, load


def layout(values=1000, name="a"):
    """Two tensors of so many values together."""
    return Layout.of({name: (values - 4,), "b": (4,)})


def state(round_=3, values=1000, digest=None):
    numbers = np.arange(values, dtype=np.float32)
    scales = np.array([0.5, 2.0], np.float32)
    return State(round_, digest or layout(values).digest(), numbers / 7, -numbers, scales)


def test_load_gives_back_every_bit(tmp_path):
    before = state()
    before.weights[0] = -0.0
    digest = before.save(tmp_path / "s.safetensors")
    after = load(tmp_path / "s.safetensors", layout())
    assert after.hash() == before.hash() == digest
    assert (after.round, after.layout) == (3, before.layout)
    for name in ("weights", "momentum", "shared"):
        assert getattr(after, name).tobytes() == getattr(before, name).tobytes()
    assert [p.name for p in tmp_path.iterdir()] == ["s.safetensors"]


def test_the_hash_is_the_same_on_every_machine():
    assert (
        state(digest="a" * 64).hash()
        == "225d3ca03249a4cefd58f94d3125a00ed1eb0853da707ae199d26068f223ec97"
    )


def test_the_hash_depends_on_every_part():
    seen = {state().hash(), state(4).hash(), state(digest="b" * 64).hash()}
    for name in ("weights", "momentum", "shared"):
        changed = state()
        array = getattr(changed, name)
        array[-1] = np.nextafter(array[-1], np.float32(9e9))
        seen.add(changed.hash())
    swapped = state()
    swapped.weights, swapped.momentum = swapped.momentum, swapped.weights
    assert len(seen | {swapped.hash()}) == 7


def test_any_truncation_is_refused(tmp_path):
    path = tmp_path / "s.safetensors"
    state(values=100).save(path)
    whole = path.read_bytes()
    for size in range(0, len(whole), 37):
        path.write_bytes(whole[:size])
        with pytest.raises(StateError, match=r"s\.safetensors"):
            load(path, layout(100))


def test_any_changed_byte_is_refused(tmp_path):
    path = tmp_path / "s.safetensors"
    state(values=20).save(path)
    whole = path.read_bytes()
    for place in range(len(whole)):
        changed = bytearray(whole)
        changed[place] ^= 1
        path.write_bytes(changed)
        try:
            found = load(path, layout(20))
        except StateError:
            continue
        # A change of nothing that counts (a space of the header) may pass, but nothing else.
        assert found.hash() == state(values=20).hash()


def test_states_of_other_models_are_refused(tmp_path):
    path = tmp_path / "s.safetensors"
    state().save(path)
    with pytest.raises(StateError, match="another model"):
        load(path, layout(name="other"))
    with pytest.raises(StateError, match="wrong size"):
        load(path, layout(999))
    with pytest.raises(StateError, match="another model"):
        load(path, Layout.of({"a": (900,), "b": (4,), "c": (96,)}))


@pytest.mark.parametrize("missing", ["round", "layout", "hash"])
def test_a_state_without_its_facts_is_refused(tmp_path, missing):
    path = tmp_path / "s.safetensors"
    digest = state().save(path)
    facts = {"round": "3", "layout": layout().digest(), "hash": digest}
    del facts[missing]
    save_file(load_file(path), path, facts)
    with pytest.raises(StateError, match="cannot be read"):
        load(path, layout())


def test_a_missing_file_and_another_kind_of_number_are_refused(tmp_path):
    with pytest.raises(StateError):
        load(tmp_path / "none.safetensors", layout())
    path = tmp_path / "s.safetensors"
    digest = state().save(path)
    arrays = {name: array.astype(np.float64) for name, array in load_file(path).items()}
    save_file(arrays, path, {"round": "3", "layout": layout().digest(), "hash": digest})
    with pytest.raises(StateError):
        load(path, layout())


def test_the_same_state_is_the_same_file(tmp_path):
    """Donors of one state offer the same pieces: a newcomer fetches a piece from each."""
    files = [tmp_path / f"{n}.safetensors" for n in range(12)]
    for file in files:
        state().save(file)
    assert len({file.read_bytes() for file in files}) == 1
    assert load(files[0], layout()).hash() == state().hash()
