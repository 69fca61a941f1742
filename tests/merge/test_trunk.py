"""What paths hold in common is merged over all of them, exactly as if they were one run."""

import msgspec
import numpy as np
import pytest
from fixtures.golden import LAYOUT, announce, numbers

from duckweed.ledger.entries import OfPath
from duckweed.merge import trunk
from duckweed.merge.round import MergeError, advance, nothing
from duckweed.round.engine import Engine, MemoryBlobs
from duckweed.run import family as family_rules
from duckweed.run.sections import Paths
from duckweed.run.spec import RunSpec, SpecError, override
from duckweed.run.state import State
from duckweed.wire import WireError, codec_of

COMMON = (LAYOUT.names[0], LAYOUT.names[2])
BLOCK = 1024
FACTS = {
    "outer.optimizer": "nesterov", "paths.count": 3, "paths.prefix": 8, "paths.shared": list(COMMON),
    "rounds.peers": 3,
}  # fmt: skip


def of_path(path, **more):
    return family_rules.of_path(override(RunSpec(), FACTS | more), path, "ab" * 32)


def state():
    scales = np.full(len(LAYOUT.names), 0.375, np.float32)
    return State(0, LAYOUT.digest(), numbers(1, LAYOUT.total), numbers(2, LAYOUT.total), scales)


def contribution(spec, peer, seed, tokens=BLOCK):
    wanted = numbers(seed, LAYOUT.total)
    blob = codec_of(spec.wire, LAYOUT).encode(wanted, state().shared).blob
    return announce(0, peer, blob, wanted, tokens), blob


class Family:
    """Three paths, and what the peers of each have handed in: (seed, tokens) of each of them."""

    def __init__(self, handed, **more):
        self.specs = [of_path(path, **more) for path in range(3)]
        self.split = trunk.split_of(self.specs[0], LAYOUT)
        self.blobs = MemoryBlobs()
        self.engines = [Engine(spec, LAYOUT, self.blobs) for spec in self.specs]
        self.shared = state().shared.tolist()
        self.handed, self.gathered = [], []
        for spec, engine, peers in zip(self.specs, self.engines, handed, strict=True):
            made = [contribution(spec, n, *one) for n, one in enumerate(peers)]
            self.blobs.update({said.blob: blob for said, blob in made})
            self.handed.append([said for said, _ in made])
            self.gathered.append(
                engine.close(self.shared, self.handed[-1])
                if made
                else nothing(spec, 0, self.shared)
            )

    def closed(self):
        given = {path: one.trunk.paths[path] for path, one in enumerate(self.gathered)}
        sizes = [self.split.trunk.pick(said.rms) for path in self.handed for said in path]
        return [
            engine.join(self.shared, closed, given, sizes, self.blobs.read)
            for engine, closed in zip(self.engines, self.gathered, strict=True)
        ]

    def ends(self):
        return [
            engine.advance(state(), closed)
            for engine, closed in zip(self.engines, self.closed(), strict=True)
        ]

    def alone(self, handed):
        """The state after a round of one run that has these contributions."""
        single = override(RunSpec(), {"outer.optimizer": "nesterov"})
        single = msgspec.structs.replace(single, merge=self.specs[0].merge)
        engine = Engine(single, LAYOUT, self.blobs)
        said = [
            msgspec.structs.replace(one, peer=number)
            for number, one in enumerate(one for path in handed for one in path)
        ]
        return engine.advance(state(), engine.close(self.shared, said))


@pytest.mark.parametrize("rule", ["mean", "bounded"])
@pytest.mark.parametrize(
    "tokens",
    [
        [(BLOCK, BLOCK), (BLOCK,), (BLOCK, BLOCK, BLOCK)],
        [(BLOCK, BLOCK // 2), (BLOCK, BLOCK), (BLOCK // 4,)],
    ],
)
def test_the_trunk_of_all_paths_is_that_of_one_run_with_all_contributions(rule, tokens):
    handed, seed = [], 100
    for peers in tokens:
        handed.append([(seed + n, one) for n, one in enumerate(peers)])
        seed += 10
    family = Family(handed, **{"merge.rule": rule})
    ends, whole = family.ends(), family.alone(family.handed)
    common, own = family.split.trunk, family.split.own
    for path, end in enumerate(ends):
        for name in ("weights", "momentum"):
            np.testing.assert_array_equal(
                common.take(getattr(end, name)), common.take(getattr(whole, name))
            )
        assert common.pick(end.shared) == common.pick(whole.shared)
        single = family.alone([family.handed[path]])
        np.testing.assert_array_equal(own.take(end.weights), own.take(single.weights))
        assert own.pick(end.shared) == own.pick(single.shared)
    assert len({one.trunk.update for one in family.closed()}) == 1
    assert len({one.update for one in family.closed()}) == 3


def test_a_path_that_rests_moves_its_trunk_with_the_others_and_nothing_else():
    family = Family([[(1, BLOCK)], [(2, BLOCK), (3, BLOCK)], []])
    *others, resting = family.ends()
    common, own = family.split.trunk, family.split.own
    np.testing.assert_array_equal(common.take(resting.weights), common.take(others[0].weights))
    assert (common.take(resting.weights) != common.take(state().weights)).any()
    np.testing.assert_array_equal(own.take(resting.weights), own.take(state().weights))
    np.testing.assert_array_equal(own.take(resting.momentum), own.take(state().momentum))
    assert own.pick(resting.shared) == own.pick(state().shared)
    assert resting.round == 1
    (closed,) = [one for one in family.closed() if not one.accepted]
    assert closed.needed() == [closed.trunk.update]


def test_where_all_rest_nothing_changes_but_the_number_of_the_round():
    family = Family([[], [], []])
    for end in family.ends():
        np.testing.assert_array_equal(end.weights, state().weights)
        np.testing.assert_array_equal(end.shared, state().shared)
        assert end.round == 1


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        ({0: ([1, 1], 200), 1: ([1], 100)}, {0: 1, 1: 1}),
        ({0: ([1], 100), 1: ([1], 50)}, {0: 2, 1: 1}),
        ({0: ([2, 1], 150), 1: ([1], 25)}, {0: 2, 1: 1}),
        ({0: ([1], 1), 1: ([1], 10**6)}, {0: 1, 1: 16}),
        ({}, {}),
    ],
)
def test_a_path_weighs_by_its_tokens(paths, expected):
    given = {path: OfPath("ab", weights, tokens) for path, (weights, tokens) in paths.items()}
    given[7] = OfPath(None, [], 0)
    assert trunk.factors(given) == expected
    assert trunk.weights(given) == [
        expected[path] * weight for path in sorted(paths) for weight in paths[path][0]
    ]


def test_a_sum_that_is_not_what_its_path_says_is_refused():
    family = Family([[(1, BLOCK)], [(2, BLOCK)], [(3, BLOCK)]])
    own = family.gathered[0].trunk.paths[0]
    family.gathered[0].trunk.paths[0] = msgspec.structs.replace(own, weights=[2])
    with pytest.raises(WireError, match=r"path 0 .* not the sum that it names"):
        family.closed()
    family = Family([[(1, BLOCK)], [(2, BLOCK)], [(3, BLOCK)]])
    (closed, *_), engine = family.closed(), family.engines[0]
    closed.trunk.paths[1] = msgspec.structs.replace(closed.trunk.paths[1], weights=[1, 1])
    with pytest.raises((MergeError, WireError), match=r"not the sum|contributors"):
        engine.advance(state(), closed)
    spec = family.specs[0]
    with pytest.raises(KeyError):
        advance(spec, LAYOUT, state(), family.closed()[0], {}.__getitem__)


@pytest.mark.parametrize(
    ("shared", "said"),
    [
        (("nothing",), "no tensor of this model fits"),
        (("*",), "all tensors of this model fit"),
        ("trunk", "names its feed-forward parts in a way that is not known"),
    ],
)
def test_paths_that_have_all_or_nothing_in_common_are_refused(shared, said):
    with pytest.raises(SpecError, match=said):
        trunk.divided(Paths(shared=shared), LAYOUT)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"paths.shared": "trunks"}, "'none', 'trunk', or a list of patterns"),
        ({"paths.shared": "trunk", "wire.kind": "sparse"}, "paths.shared: .* exact sum .* 'sparse'"),
        ({"paths.shared": "trunk", "rounds.peers": 7}, "rounds.peers = 7 are too few for 8 paths"),
        (
            {
                "paths.shared": "trunk", "rounds.peers": 8,
                "members.successors": ["anna:" + "ab" * 32, "ben:" + "cd" * 32],
            },
            "led by one machine so far; leave members.successors out",
        ),
    ],
)  # fmt: skip
def test_what_does_not_go_with_a_trunk_is_refused_with_what_to_do(more, said):
    with pytest.raises(SpecError, match=said):
        override(RunSpec(), {"paths.count": 8} | more)


@pytest.mark.parametrize("shared", [{}, {"paths.shared": "none"}])
def test_without_a_trunk_a_path_is_a_run_as_any_other(shared):
    facts = {key: value for key, value in FACTS.items() if key != "paths.shared"}
    spec = family_rules.of_path(override(RunSpec(), facts | shared), 1, "ab" * 32)
    assert not spec.in_common
    assert trunk.split_of(spec, LAYOUT) is None
    assert trunk.size(spec.paths, LAYOUT) == 0
