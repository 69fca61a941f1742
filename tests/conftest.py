"""What all tests share: quiet threads, and a cache of their own."""

import os

import pytest
from hypothesis import settings

from duckweed.process import environment

environment.prepare()  # before torch is imported
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"

# How long an example takes says nothing about whether it is right; in CI the examples are always
# the same, so that a failure there can be repeated.
settings.register_profile("duckweed", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("duckweed")


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """Prepared data sets go into a temporary folder, never into the user's cache."""
    before = os.environ.get("XDG_CACHE_HOME")
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))
    yield
    if before is None:
        del os.environ["XDG_CACHE_HOME"]
    else:
        os.environ["XDG_CACHE_HOME"] = before
