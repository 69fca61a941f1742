"""What all tests share: quiet threads, and a cache of their own."""

import os
import signal

import pytest
from hypothesis import settings

from duckweed.process import environment

environment.prepare()  # before torch is imported
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"

# A shell lets what it starts in the background ignore Ctrl-C, and so would all commands that tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# How long an example takes says nothing about whether it is right; in CI the examples are always
# the same, so that a failure there can be repeated.
settings.register_profile("duckweed", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("duckweed")


@pytest.fixture(scope="session", autouse=True)
def own_folders(tmp_path_factory):
    """Prepared data sets and notes on runs go into temporary folders, never into the user's."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("XDG_CACHE_HOME", "XDG_DATA_HOME"):
            patch.setenv(name, str(tmp_path_factory.mktemp("own")))
        yield
