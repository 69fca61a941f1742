"""What a model writes while it is in training."""

import pytest
from fixtures import tiny

from duckweed.process.simulation import Simulation
from duckweed.round import founding
from duckweed.round.export import latest_state
from duckweed.round.sampler import Sampler
from duckweed.run.events import Sampled

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    base = tmp_path_factory.mktemp("sampler")
    spec = tiny.specification(base, {"rounds.count": 2, "rounds.peers": 1})
    folder, ground, state = tiny.found(base, "run", spec)
    first = Sampler(folder, spec, ground)
    first.write()
    Simulation(folder, spec, founding.layout(folder), ground, state, "cpu").run()
    return folder, spec, ground, first


def test_the_text_follows_from_state_and_seed_and_is_written_once(run):
    folder, spec, ground, first = run
    first.write()  # from the state that it had, by the blobs of the run
    first.write()
    assert [x.round for x in folder.records(Sampled)] == [0, 2]
    again = Sampler(folder, spec, ground)
    state = latest_state(folder, spec)
    texts = {x.round: x.text for x in folder.records(Sampled)}
    assert again._text(state) == texts[2]
    again.write()  # it is there already
    assert len(list(folder.records(Sampled))) == 2


def test_a_sampler_that_is_ended_has_written_the_last_text(run):
    folder, spec, ground, _ = run
    kept = folder.metrics.read_bytes()
    folder.metrics.write_bytes(b"")
    it = Sampler(folder, spec, ground)
    it.start()
    it.news()
    it.end(60)
    assert not it.is_alive()
    assert [x.round for x in folder.records(Sampled)] == [2]
    folder.metrics.write_bytes(kept)
