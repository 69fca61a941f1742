"""`duckweed evolve work` on a machine that is not as it should be: a liar or mortal, as the variable MACHINE says."""

import os
import signal

import msgspec

from duckweed import cli
from duckweed.evolve.workers.worker_server import WorkerServer

train = WorkerServer._train


def lies(server, campaign, trial):
    """Trains each trial with another seed than asked for: as many tokens, other weights."""
    return train(server, campaign, msgspec.structs.replace(trial, seed=trial.seed + 1))


def dies(server, campaign, trial):
    """Dies in the middle of a trial once there is a file "die" beside its home."""
    if (server.home.parent / "die").exists():
        os.kill(os.getpid(), signal.SIGKILL)
    return train(server, campaign, trial)


def main():
    WorkerServer._train = {"liar": lies, "mortal": dies}[os.environ["MACHINE"]]
    return cli.main()
