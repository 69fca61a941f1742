"""Workers as real processes: what dies or hangs is run again, and nothing of ours reaches them."""

import os
import shutil
import signal
from pathlib import Path

import pytest
from fixtures import commands

from duckweed.evolve.folder import CampaignFolder
from duckweed.evolve.trial_spec import TrialSpec
from duckweed.evolve.workers import local_worker
from duckweed.evolve.workers.pool import Batch, Pool, Stopped, WorkerFailed
from evolve.tiny_campaign import campaign, trial

pytestmark = pytest.mark.slow

LIMIT = 600.0


class PoolUnderTest:
    """One pool for all tests here, since a process takes its time to start; `failures` is emptied
    before each test."""

    def __init__(self, base: Path) -> None:
        self.folder, journal, plain = campaign(base)
        journal.close()
        self.trials = [trial(plain, seed, 1e9) for seed in (1, 2, 3)]
        self.failures: list[TrialSpec] = []
        self.pool = Pool(self.folder, 1, lambda trial, reason: self.failures.append(trial))

    def run(self, groups, stopped=lambda: None, limit=LIMIT, avoid=None):
        found = {}
        done = lambda trial, result: found.update({trial.id: result})  # noqa: E731
        self.pool.run(Batch(groups, done, limit, stopped), avoid)
        return found

    @property
    def processes(self) -> list[int]:
        workers = (self.pool._slots[0].process, self.pool._evaluator)
        return [worker._child._process.pid for worker in workers if worker]

    @property
    def is_training(self) -> bool:
        return any(self.folder.work.iterdir())


@pytest.fixture(scope="module")
def _ground(tmp_path_factory):
    os.environ["SOME_TOKEN"] = "very-secret"
    ground = PoolUnderTest(tmp_path_factory.mktemp("ground"))
    with ground.pool:
        yield ground
    del os.environ["SOME_TOKEN"]


@pytest.fixture
def ground(_ground):
    _ground.failures.clear()
    return _ground


@pytest.fixture(scope="module")
def undisturbed(_ground):
    """Weights and losses, bit for bit."""
    return told(_ground.run([_ground.trials]))


def told(found):
    return {name: (result.weights, result.loss) for name, result in found.items()}


@pytest.mark.parametrize("victim", ["trainer", "evaluator"])
def test_a_process_that_dies_has_its_trials_run_again_with_the_same_result(
    ground, undisturbed, victim
):
    killed = []

    def kill_once():
        if ground.is_training and not killed:
            killed.append(ground.processes[0 if victim == "trainer" else 1])
            os.kill(killed[0], signal.SIGKILL)

    assert told(ground.run([ground.trials], kill_once)) == undisturbed
    assert killed
    assert len(ground.failures) == 1


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="no way to make a process hang")
def test_a_worker_that_hangs_is_ended_and_its_trial_run_again(ground, undisturbed):
    hung = ground.processes[0]
    os.kill(hung, signal.SIGSTOP)
    asked = ground.trials[1]
    found = ground.run([[asked]], limit=10.0)
    assert ground.processes[0] != hung
    assert ground.failures == [asked]
    assert told(found)[asked.id] == undisturbed[asked.id]


def test_a_check_is_made_by_another_process_and_agrees(ground, undisturbed):
    asked = ground.trials[0]
    first = ground.run([[asked]])[asked.id]
    again = ground.run([[asked]], avoid=first.worker)[asked.id]
    assert again.worker != first.worker
    assert (again.weights, again.loss) == undisturbed[asked.id]


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="reads /proc")
def test_keys_and_tokens_of_ours_do_not_reach_a_worker(ground, undisturbed):
    for pid in ground.processes:
        seen = Path(f"/proc/{pid}/environ").read_bytes()
        assert b"PATH=" in seen
        assert b"very-secret" not in seen


def test_a_stop_ends_every_process(ground, undisturbed):
    pids = ground.processes
    with pytest.raises(Stopped, match="enough"):
        ground.run([ground.trials * 50], lambda: "enough" if ground.is_training else None)
    ground.pool.__exit__(None, None, None)
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    assert not ground.folder.work.exists()


def test_workers_that_cannot_start_are_given_up_with_the_reason(ground, tmp_path, monkeypatch):
    monkeypatch.setattr(local_worker, "fork_server", commands.lent)
    broken = CampaignFolder(tmp_path)
    shutil.copyfile(ground.folder.spec, broken.spec)
    failures = []
    with (
        Pool(broken, 1, lambda trial, reason: failures.append(reason)) as pool,
        pytest.raises(WorkerFailed, match=r"3 workers ended.*log\.txt.*--resume"),
    ):
        pool.run(Batch([ground.trials], lambda trial, result: None, LIMIT))
    assert len(failures) == 3
    assert "training" in broken.log.read_text()
