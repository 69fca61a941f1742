"""A site: several processes that train as one peer."""

import msgspec
import numpy as np
import pytest
import torch.distributed as dist
from fixtures import ranks, tiny
from transformers import AutoConfig

from duckweed.audit.duty import Claim, examine
from duckweed.learn import memory
from duckweed.learn.fit import Fit, Wish, ways
from duckweed.learn.model import model as models
from duckweed.learn.site.group import Hello, Pulse, check
from duckweed.learn.site.place import Place, SiteError
from duckweed.merge.announcement import Announcement
from duckweed.round import founding
from duckweed.round.blocks import Span
from duckweed.run.spec import RunSpec

TWO = [
    "plain muon",
    "plain chat",
    "sharded muon",
    "sharded normuon",
    "sharded adamw",
    "sharded chat",
]
FOUR = ["plain chat", "sharded muon", "sharded mixture"]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tmp_path_factory.mktemp("site")


@pytest.fixture(scope="module")
def run(base):
    """A run in the folder `base`, of which a site of two makes the first contribution: (specification, ground, state)."""
    changes = {
        "inner.precision": "fp32",
        "inner.batch": 3,
        "members.audits": 0.5,
        "members.join": "open",
    }
    spec = tiny.specification(base, changes)
    _, ground, state = tiny.found(base, "run", spec)
    return spec, ground, state


@pytest.fixture(scope="module")
def found(base, run):
    """What sites of two and of four processes give for each case."""
    return dict(zip((2, 4), ranks.sites([(2, [*TWO, "peer"]), (4, FOUR)], base), strict=True))


@pytest.mark.parametrize(
    ("size", "name"), [*((2, name) for name in TWO), *((4, name) for name in FOUR)]
)
def test_several_processes_give_what_one_with_the_same_batch_gives(found, size, name):
    expected, site = ranks.alone(name), found[size][name]
    assert site.keys() == expected.keys()
    # AdamW divides by a gradient's own size, which magnifies rounding where it is almost zero.
    near = 2e-4 if name.endswith("adamw") else 2e-5
    for what, value in expected.items():
        scale = np.abs(value).max() + 1e-9
        np.testing.assert_allclose(site[what] / scale, value / scale, atol=near, err_msg=what)


def test_an_auditor_of_one_process_finds_no_fault_with_a_site_though_bits_differ(found, base, run):
    spec, ground, state = run
    layout = models.layout_of(models.skeleton(founding.configuration(spec, ground)))
    one = founding.learner(spec, ground, "cpu")
    said = msgspec.json.decode((base / "said.json").read_bytes(), type=Announcement)

    def audited(loss):
        blob, after = (base / "blob").read_bytes(), (base / "after").read_bytes()
        claim = Claim(Span(0, 0, said.steps), said.tokens, loss, blob, b"", after)
        return examine(spec, layout, one, state, claim).wrong

    assert audited(said.loss) == []
    assert "a training loss of" in audited(said.loss * 1.1)[0]


def test_ranks_must_have_the_same_invitation_versions_and_kind_of_device():
    good = Hello("here", "run a", "duckweed 1", "cuda:0")
    check([good, msgspec.structs.replace(good, device="cuda:1")])
    for change, words in (
        ({"run": "run b"}, "given the invitation to run run b"),
        ({"versions": "duckweed 2"}, "has duckweed 2, and process 0 has duckweed 1"),
        ({"device": "cpu"}, "trains on cpu, and process 0 on cuda"),
        ({"fault": "2 processes on this machine, which has 1 GPU"}, "process 1 .* has 1 GPU"),
    ):
        with pytest.raises(SiteError, match=words):
            check([good, msgspec.structs.replace(good, **change)])


def test_a_process_that_gives_no_sign_of_life_is_gone_unless_the_silence_may_be_ones_own():
    class Heard(Pulse):
        def _give_up(self, words):
            self.lost = words

    store = dist.HashStore()
    pulse = Heard(Place(0, 2, 0, 2), store)
    for now, late in ((5.0, False), (14.0, True), (23.0, False)):
        pulse._look(1, now, late)
    store.set("alive/1", "1")
    for now in (25.0, 34.0):
        pulse._look(1, now, False)
    assert pulse.lost == ""
    pulse._look(1, 36.0, False)
    assert pulse.lost == "process 1 of this site was not heard for 10 s"


def test_a_process_knows_its_place_from_the_environment(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert Place.here() is None
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(SiteError, match="torchrun"):
        Place.here()
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert Place.here() == Place(3, 4, 1, 2)


def test_processes_share_out_a_step_and_the_model_only_where_it_does_not_fit():
    assert ways(Wish(processes=2), 4)[0] == Fit(2, processes=2)
    assert ways(Wish(processes=2), 4)[-1] == Fit(1, True, 2, True)
    assert all(way.sharded for way in ways(Wish(processes=2, shard=True), 4))
    assert not any(way.sharded for way in ways(Wish(), 4))
    spec = RunSpec()
    config = AutoConfig.for_model(
        **tiny.CONFIG | {"vocab_size": 64, "num_hidden_layers": 24, "hidden_size": 256}
    )
    model = models.skeleton(config)
    least = memory.needed(model, spec, Fit(1, True, 4)) + memory.PROCESS
    chosen = [
        memory.ways(model, spec, "cpu", Wish(room=room, processes=4))[0]
        for room in (4 * least, least - 1)
    ]
    assert [way.sharded for way in chosen] == [False, True]


def test_a_hollow_model_has_the_buffers_and_the_ties_of_a_real_one_and_no_memory_for_its_weights():
    config = AutoConfig.for_model(**tiny.CONFIG | {"vocab_size": 64, "tie_word_embeddings": True})
    hollow, real = models.hollow(config, "cpu"), models.build(config)
    assert all(p.is_meta for p in hollow.parameters())
    assert models.layout_of(hollow) == models.layout_of(real)
    for (name, one), (_, other) in zip(hollow.named_buffers(), real.named_buffers(), strict=True):
        assert np.array_equal(one.numpy(), other.numpy()), name
