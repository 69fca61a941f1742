"""`duckweed join --processes`: several processes are one peer, and none of them is missed for long."""

import threading

import psutil
import pytest
from fixtures import commands, tiny

from duckweed.process.local_run import LocalRun
from duckweed.run.events import PeerLeft, RoundClosed
from duckweed.swarm.protocol.invitation import Invitation

pytestmark = pytest.mark.slow


def test_a_site_of_which_a_process_is_killed_leaves_comes_again_and_takes_the_run_to_its_end(
    tmp_path,
):
    changes = {"rounds.count": 3, "rounds.peers": 1, "rounds.evaluate": 100, "inner.steps": 20}
    spec = tiny.specification(tmp_path, changes)
    folder, _, _ = tiny.found(tmp_path, "run", spec)
    out, seen, first = tmp_path / "out", [], threading.Event()

    def watch(run):
        for event in run.events():
            seen.append(event)
            if isinstance(event, RoundClosed):
                first.set()

    with LocalRun(folder, spec, "cpu", 1, 0) as run:
        serving = run.start()
        watching = threading.Thread(target=watch, args=[run], daemon=True)
        watching.start()
        port = next(a for a in serving.bound if a.startswith("127.")).rpartition(":")[2]
        there = Invitation(spec.identity, serving.id, (f"127.0.0.1:{port}",), folder.read_secret())
        words = [
            "join",
            there,
            *tiny.OWN,
            "--home",
            "guest",
            "--device",
            "cpu",
            "--processes",
            2,
            "--no-model",
        ]
        site = commands.Command(words, tmp_path, out)
        assert first.wait(90), site.said()
        (forks,) = psutil.Process(site.pid).children()
        peer, other = sorted(forks.children(), key=lambda x: x.pid)
        other.kill()
        assert site.wait(120) == 0, site.said()
        watching.join(60)

    said = " ".join(site.said().split())
    assert "2 processes as one peer (cpu each, 1 thread) will train" in said
    assert "process 1 of this site was killed by signal 9 starting all 2 processes again" in said
    assert not peer.is_running()
    assert [x.accepted for x in seen if isinstance(x, RoundClosed)] == [[0]] * 3
    assert next(x.reason for x in seen if isinstance(x, PeerLeft)) != "no sign of life"
