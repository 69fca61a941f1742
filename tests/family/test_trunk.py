"""A family whose paths hold a trunk in common, simulated to its end: what is the same in all of them, and what is not."""

import asyncio
import os
import shutil

import msgspec
import numpy as np
import pytest
import torch
from fixtures import tiny
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from duckweed import session
from duckweed.audit.claims import Claims, States
from duckweed.audit.findings import Outcome
from duckweed.audit.merges import audit_round
from duckweed.family import begin, harvest, shards
from duckweed.family import train as training
from duckweed.learn.data import dataset as datasets
from duckweed.learn.fit import Machine
from duckweed.learn.model import model as models
from duckweed.ledger.entries import RoundEntry, StateEntry
from duckweed.ledger.ledger import Ledger
from duckweed.merge import trunk
from duckweed.process.simulation import Simulation, together
from duckweed.round import export, founding
from duckweed.run import state as states
from duckweed.run.events import RoundClosed
from duckweed.run.folder import Destination
from duckweed.run.spec import SpecError
from duckweed.swarm.coordinator.siblings import Siblings

PATHS = "path-0", "path-1"
CHANGES = {
    "paths.count": 2, "paths.prefix": 8, "paths.common": 0.2, "paths.shared": "trunk",
    "rounds.count": 5, "rounds.patience": 60.0,
}  # fmt: skip


def quiet(text):
    pass


def found(base, name, changes=None):
    spec = tiny.specification(base, CHANGES | (changes or {}))
    return begin.found(
        spec, Destination(base, base / "runs", name), Machine("cpu"), (), quiet, quiet
    )


def bodies(folder, kind):
    ledger = Ledger(folder.ledger)
    made = [entry.body for entry in ledger.entries(kind)]
    ledger.close()
    return made


def hashes(family):
    return [bodies(family.folder.of_path(path), StateEntry)[-1].hash for path in range(len(PATHS))]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tmp_path_factory.mktemp("trunk")


@pytest.fixture(scope="module")
def done(base):
    family = found(base, "whole")
    told = list(training.simulate(family, quiet))
    return family, told, harvest.finish(family, quiet)


def test_the_trunk_is_the_same_in_all_paths_and_the_rest_is_not(done):
    family, told, _ = done
    closed = [(x.run, x.event.round) for x in told if isinstance(x.event, RoundClosed)]
    assert sorted(closed[1:]) == [(name, n) for name in PATHS for n in range(4)]
    ends = [export.latest_state(run.folder, run.spec) for run in map(family.of_path, (0, 1))]
    split = trunk.divided(family.spec.paths, founding.layout(family.common.folder))
    assert all(".mlp." in name for name in split.own.layout.names)
    for name in ("weights", "momentum"):
        one, other = (getattr(end, name) for end in ends)
        np.testing.assert_array_equal(split.trunk.take(one), split.trunk.take(other))
        assert (split.own.take(one) != split.own.take(other)).mean() > 0.2
    assert split.trunk.pick(ends[0].shared) == split.trunk.pick(ends[1].shared)
    records = [bodies(family.folder.of_path(path), RoundEntry) for path in (0, 1)]
    for one, other in zip(*records, strict=True):
        assert one.closed.trunk == other.closed.trunk
        assert one.closed.update != other.closed.update
        assert [len(x.weights) for x in one.closed.trunk.paths.values()] == [2, 1]


def test_it_learns_and_says_how_large_it_is(done):
    _, _, figures = done
    assert figures.bits[1] < figures.bits[0]
    assert 0 < figures.trunk < figures.parameters
    assert figures.total == figures.trunk + 2 * (figures.parameters - figures.trunk)
    assert (
        f"{figures.trunk:,} of them in common, {figures.total:,} in all" in figures.sentences()[1]
    )


def test_the_exported_models_are_whole_and_store_the_trunk_once(done):
    family, _, figures = done
    folders = [family.folder.of_path(path).model for path in (0, 1)]
    assert len({(folder / shards.TRUNK).stat().st_ino for folder in folders}) == 1
    assert len({(folder / shards.OWN).stat().st_ino for folder in folders}) == 2
    assert not any((folder / shards.WHOLE).exists() for folder in folders)
    for path, folder in enumerate(folders):
        run = family.of_path(path)
        model = AutoModelForCausalLM.from_pretrained(folder)
        end = export.latest_state(run.folder, run.spec)
        np.testing.assert_array_equal(models.read_weights(model), end.weights)
        windows = np.concatenate(list(datasets.held_out_batches(run.ground.dataset, 32)))
        tokens = torch.from_numpy(windows)
        with torch.no_grad():
            logits = model(input_ids=tokens[:, :-1]).logits[:, 7:]
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 8:].flatten())
        assert figures.paths[path].after == pytest.approx(loss.item(), abs=1e-4)
    before = [(folder / shards.TRUNK).stat().st_mtime_ns for folder in folders]
    shards.divide(folders, family.spec.paths.shares)  # a second time changes nothing
    assert [(folder / shards.TRUNK).stat().st_mtime_ns for folder in folders] == before


def test_where_there_are_no_links_each_model_has_the_trunk_of_its_own(done, tmp_path, monkeypatch):
    def refuse(*words):
        raise OSError("no such links here")

    monkeypatch.setattr(os, "link", refuse)
    copies = []
    for path in (0, 1):
        folder = tmp_path / str(path)
        shutil.copytree(done[0].folder.of_path(path).model, folder)
        tensors = load_file(folder / shards.TRUNK) | load_file(folder / shards.OWN)
        for name in (shards.TRUNK, shards.OWN, shards.INDEX):
            (folder / name).unlink()
        save_file(tensors, folder / shards.WHOLE, {"format": "pt"})
        copies.append(folder)
    shards.divide(copies, done[0].spec.paths.shares)
    one, other = (folder / shards.TRUNK for folder in copies)
    assert one.read_bytes() == other.read_bytes()
    assert one.stat().st_ino != other.stat().st_ino
    assert all((folder / shards.INDEX).is_file() for folder in copies)


def test_stopped_after_each_round_and_resumed_it_is_as_if_it_had_not_been_stopped(base, done):
    """Stopped as soon as one path has closed a round that the other has not."""
    family, stops = found(base, "stopped"), 0
    while not training.trained(family):
        story = training.simulate(family, quiet)
        for told in story:
            if isinstance(told.event, RoundClosed):
                break
        story.close()
        stops += 1
        family = begin.reopen(family.folder, "cpu", 1)
    assert stops >= 5
    assert hashes(family) == hashes(done[0])


def test_a_round_that_others_may_have_closed_is_closed_with_what_was_offered(base, done):
    """A coordinator that was killed once its offer was known takes no more and no other contributions."""
    family = found(base, "killed")
    for told in training.simulate(family, quiet):
        if isinstance(told.event, RoundClosed) and told.run == PATHS[1] and told.event.round == 1:
            break
    offers = [Siblings(family.folder.of_path(path), family.of_path(path).spec) for path in (0, 1)]
    before = [one.own(1) for one in offers]
    assert all(before)
    for _ in training.simulate(begin.reopen(family.folder, "cpu", 1), quiet):
        pass
    entry = bodies(family.folder.of_path(0), RoundEntry)[1]
    offered = [one.announcement.blob for one in before[0].handed]
    assert [x.blob for x in entry.contributions.values()] == offered
    assert hashes(family) == hashes(done[0])


def test_every_round_can_be_audited_beside_the_other_paths(done, tmp_path):
    family, _, _ = done
    for path in (0, 1):
        claims = Claims(family.folder.of_path(path))
        for number in claims.rounds:
            found_ = list(audit_round(claims, States(claims), number))
            assert [one.outcome for one in found_] == [Outcome.SAME, Outcome.SAME]
    alone = tmp_path / "path-1"
    shutil.copytree(family.folder.of_path(1).path, alone)
    claims = Claims(type(family.folder.of_path(1))(alone))
    merge, _ = audit_round(claims, States(claims), 0)
    assert merge.outcome is Outcome.MISSING
    assert "what another path gave to the trunk" in merge.detail


def test_a_trunk_that_is_not_the_sum_of_what_the_paths_gave_is_found(done):
    claims = Claims(done[0].folder.of_path(0))
    closed = claims.rounds[1].closed
    closed.trunk = msgspec.structs.replace(closed.trunk, update="ab" * 32)
    merge, state = audit_round(claims, States(claims), 1)
    assert merge.outcome is Outcome.DIFFERS
    assert "hold in common got another sum" in merge.detail
    assert state.outcome is Outcome.SAME


class Leaving(Simulation):
    """A run whose peer is away for a while after the first round."""

    async def _take_part(self, n, key, network, to):
        task = asyncio.create_task(super()._take_part(n, key, network, to))
        while max(self.workers[n].states) < 1:
            await asyncio.sleep(0.05)
        task.cancel()
        await asyncio.wait([task])
        self.state = self.workers[n].states[1]
        await asyncio.sleep(80)
        return await super()._take_part(n, key, network, to)


def test_a_path_whose_peers_are_away_rests_and_goes_on_when_they_are_back(base):
    family = found(base, "away", {"rounds.count": 12})
    for told in training.simulate(family, quiet):
        if told.run != "common":
            break
    runs = [family.of_path(path) for path in (0, 1)]
    simulations = []
    for run, kind in zip(runs, (Simulation, Leaving), strict=True):
        state = states.load(run.folder.start(False), founding.layout(run.folder))
        simulations.append(
            kind(
                run.folder, run.spec, founding.layout(run.folder), run.ground, state, "cpu",
                step_seconds=5.0,
            )
        )  # fmt: skip
    for _ in together(simulations):
        pass
    counted = [[entry.closed.accepted for entry in bodies(run.folder, RoundEntry)] for run in runs]
    assert all(len(one) == 2 for one in counted[0])
    rested = [number for number, one in enumerate(counted[1]) if not one]
    assert rested
    assert counted[1][-1] == [0]  # it was back for the last round
    assert session.is_trained(runs[1].folder, runs[1].spec)
    split = trunk.divided(family.spec.paths, founding.layout(runs[0].folder))
    one, other = (split.trunk.take(x.state.weights) for x in simulations)
    np.testing.assert_array_equal(one, other)
    figures = harvest.finish(family, quiet)
    assert figures.paths[1].tokens < figures.paths[0].tokens / 2
    assert figures.bits[1] < figures.bits[0]


def test_a_model_whose_tensors_fit_no_pattern_is_refused_and_nothing_is_left(base):
    with pytest.raises(SpecError, match="no tensor of this model fits"):
        found(base, "refused", {"paths.shared": ["*.attention.*"]})
    assert not (base / "runs" / "refused").exists()
