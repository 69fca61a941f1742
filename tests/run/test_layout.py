import numpy as np
import pytest

from duckweed.run.layout import Layout

DIGEST = "0d5966f6317b5dbe97d6f700ba1b3547b74420d0164323b453c03c9c1972c19e"


def test_tensors_lie_one_after_the_other():
    layout = Layout.of({"a": (2, 3), "s": (), "v": (4,)})
    assert layout.sizes == (6, 1, 4)
    assert layout.offsets.tolist() == [0, 6, 7, 11]
    assert layout.offsets.dtype == np.int64
    assert layout.total == 11
    assert layout.slices() == [slice(0, 6), slice(6, 7), slice(7, 11)]


def test_digest_depends_on_names_shapes_and_order():
    layouts = [
        Layout.of({"a": (2, 3), "b": (4,)}),
        Layout.of({"b": (4,), "a": (2, 3)}),
        Layout.of({"a": (3, 2), "b": (4,)}),
        Layout.of({"a": (6,), "b": (4,)}),
        Layout.of({"x": (2, 3), "b": (4,)}),
    ]
    assert len({layout.digest() for layout in layouts}) == len(layouts)
    assert layouts[0].digest() == Layout.of({"a": (2, 3), "b": (4,)}).digest()
    # As it was before layouts knew of momenta: runs of then go on.
    assert layouts[0].digest() == DIGEST


def test_momenta_come_after_the_weights():
    layout = Layout(("a", "v", "m.a"), ((2, 3), (4,), (2, 3)), 1)
    assert (layout.total, layout.parameters) == (16, 10)
    assert layout.kinds == [slice(0, 10), slice(10, 16)]
    plain = Layout(layout.names, layout.shapes)
    assert (plain.total, plain.parameters, plain.kinds) == (16, 16, [slice(0, 16)])
    assert plain.digest() != layout.digest()


@pytest.mark.parametrize("momenta", [-1, 2, 3])
def test_a_layout_has_weights_and_no_fewer_than_no_momenta(momenta):
    with pytest.raises(ValueError, match=f"{momenta} momenta among 2"):
        Layout(("a", "b"), ((1,), (2,)), momenta)


@pytest.mark.parametrize(
    ("names", "shapes", "says"),
    [
        (("a",), (), "1 names but 0 shapes"),
        ((), (), "no tensors"),
        (("a", "a"), ((1,), (2,)), "'a' comes more than once"),
        (("a",), ((3, 0),), "at least 1"),
        (("a",), ((-1,),), "at least 1"),
    ],
)
def test_impossible_layouts_are_refused(names, shapes, says):
    with pytest.raises(ValueError, match=says):
        Layout(names, shapes)
