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
    # As it has always been: runs of earlier versions can be resumed.
    assert layouts[0].digest() == DIGEST


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
