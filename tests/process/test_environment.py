"""What is set for a process before it begins."""

import os
import subprocess
import sys

import pytest

from duckweed.process import environment


def test_a_child_computes_with_the_threads_that_it_is_given_and_keeps_what_the_user_set(
    monkeypatch,
):
    monkeypatch.setenv("OMP_NUM_THREADS", "16")
    monkeypatch.setenv("HF_HUB_VERBOSITY", "debug")
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    child = environment.of_child(3)
    assert child["OMP_NUM_THREADS"] == child["DUCKWEED_THREADS"] == "3"
    assert child["OMP_WAIT_POLICY"] == "passive"
    assert child["HF_HUB_VERBOSITY"] == "debug"
    assert child["PATH"] == os.environ["PATH"]


def test_a_child_is_ended_in_order_by_closing_its_input():
    code = (
        "import asyncio\n"
        "from duckweed.process import environment\n"
        "async def main():\n"
        "    stopped = asyncio.Event()\n"
        "    environment.on_stop(stopped.set)\n"
        "    environment.end_with_parent()\n"
        "    await stopped.wait()\n"
        "    print('in order')\n"
        "asyncio.run(main())"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        **environment.detached(),
    )  # fmt: skip
    environment.ask_to_end(child.stdin)
    assert child.stdout.read() == b"in order\n"
    assert child.wait() == 0


@pytest.mark.skipif(sys.platform == "win32", reason="no limit to raise")
@pytest.mark.parametrize(("soft", "hard", "then"), [(100, 3000, 3000), (9000, 9000, 9000)])
def test_as_many_files_may_be_open_as_are_allowed_and_no_fewer_than_before(soft, hard, then):
    code = (
        "import resource\n"
        f"resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}))\n"
        "from duckweed.process.environment import allow_files\n"
        "allow_files()\n"
        "print(*resource.getrlimit(resource.RLIMIT_NOFILE))"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.split() == [str(then), str(hard)]
