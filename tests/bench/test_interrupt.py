"""A run that is interrupted at any instant ends as the one that is left in peace."""

import os

import pytest

from bench.peer.interrupt import fork_server, interrupted, whole

pytestmark = [pytest.mark.slow, pytest.mark.long]

SEEDS = int(os.environ.get("DUCKWEED_INTERRUPT_SEEDS", "8"))


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    base = tmp_path_factory.mktemp("interrupt")
    with fork_server(base) as forks:
        yield whole(forks, base)


@pytest.mark.parametrize("seed", range(SEEDS))
def test_whatever_the_instant_the_run_ends_in_the_same_bits(alone, seed):
    interrupted(alone, seed)
