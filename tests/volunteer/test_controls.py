"""What a volunteer allows is read as it was meant, refused where it means nothing, and kept to."""

import os
import subprocess
import sys
import time
from types import SimpleNamespace

import msgspec
import pytest

from duckweed.run.folder import RunFolder
from duckweed.run.units import UnitError
from duckweed.swarm.protocol.errors import HandedBack
from duckweed.swarm.protocol.invitation import Invitation
from duckweed.volunteer import controls as files
from duckweed.volunteer import cpu_load as loads
from duckweed.volunteer import watch as room
from duckweed.volunteer.controls import Controls, ControlsError, changed, within
from duckweed.volunteer.cpu_load import Load
from duckweed.volunteer.peer_home import PeerHome, PeerHomeError, find
from duckweed.volunteer.systemd import quoted, unit, write
from duckweed.volunteer.watch import Watch


def at(hour, minute=0):
    return time.struct_time((2026, 1, 1, hour, minute, 0, 3, 1, 0))


@pytest.mark.parametrize(
    ("hours", "inside", "outside"),
    [
        ("22-07", [(22, 0), (23, 59), (0, 0), (6, 59)], [(7, 0), (12, 0), (21, 59)]),
        ("9:30-17", [(9, 30), (16, 59)], [(9, 29), (17, 0), (0, 0)]),
        ("18-24", [(18, 0), (23, 59)], [(0, 0), (17, 59)]),
        (" 0 - 6 ", [(0, 0), (5, 59)], [(6, 0), (23, 0)]),
    ],
)
def test_hours_of_the_day_also_over_midnight(hours, inside, outside):
    assert all(within(hours, at(*time)) for time in inside)
    assert not any(within(hours, at(*time)) for time in outside)


@pytest.mark.parametrize(
    "given",
    [
        {"hours": "22"}, {"hours": "22-25"}, {"hours": "7-7"}, {"hours": "9:75-10"},
        {"up": "fast"}, {"up": "0mbit"}, {"down": "5"}, {"memory": "4Gb"}, {"disk": "much"},
        {"threads": 0}, {"nice": -5}, {"nice": 20}, {"micro": "0"}, {"micro": "many"},
    ],
)  # fmt: skip
def test_what_means_nothing_is_refused(given):
    with pytest.raises((ControlsError, UnitError)):
        changed(Controls(), given)


def test_micro_batches_are_a_number_or_found_out():
    assert Controls().micro_batch is None
    assert changed(Controls(micro="auto"), {"micro": "4"}).micro_batch == 4


def test_controls_are_kept_and_only_what_is_given_changes(tmp_path):
    first = changed(Controls(), {"up": "5mbit", "memory": "4GB", "hours": None, "nice": 3})
    files.save(tmp_path, first)
    assert files.load(tmp_path) == first
    second = changed(files.load(tmp_path), {"down": "50 Mbit/s", "up": None})
    assert (second.up_bytes, second.down_bytes, second.memory_bytes) == (625e3, 6.25e6, 4e9)
    assert second.said() == ["at most 5 Mbit/s up, 50 Mbit/s down", "4 GB of memory"]
    assert files.load(tmp_path / "nowhere") == Controls()


def edit(home, text):
    (home / files.FILE).write_text(text)
    stamp = time.time() + next(edit.count)
    os.utime(home / files.FILE, (stamp, stamp))


edit.count = iter(range(1, 1000))


@pytest.fixture
def watch(tmp_path, monkeypatch):
    monkeypatch.setattr(room, "CONTROLS_CHECK", 0.0)
    said = []
    kept = Watch(tmp_path, said.append)
    kept.told = said
    return kept


def test_a_running_peer_follows_the_file(watch, tmp_path):
    assert watch.pausing() is None
    edit(tmp_path, "paused = true\nup = '8kbit'")
    assert watch.pausing() == "paused by its volunteer"
    assert watch.pace.piece == 4096
    for broken in ("paused = maybe", "pasued = true", "up = 'quick'", "\0"):
        edit(tmp_path, broken)
        assert watch.pausing() == "paused by its volunteer"
        assert "stay as they were" in watch.told.pop()
    edit(tmp_path, "")
    assert watch.pausing() is None
    assert watch.pace.piece == 1 << 20


def test_outside_its_hours_it_rests(watch, tmp_path, monkeypatch):
    edit(tmp_path, "hours = '22-07'")
    monkeypatch.setattr(room.time, "localtime", lambda: at(12))
    assert "outside its hours (22-07)" in watch.pausing()
    monkeypatch.setattr(room.time, "localtime", lambda: at(23))
    assert watch.pausing() is None


def test_a_busy_machine_makes_it_rest_until_it_is_well_idle_again(watch, tmp_path, monkeypatch):
    edit(tmp_path, "pause_when_busy = true")
    for others, rests in ((0.4, False), (0.6, True), (0.4, True), (0.2, False), (0.4, False)):
        monkeypatch.setattr(watch._load, "others", lambda others=others: others)
        assert bool(watch.pausing()) is rests


def test_the_load_of_others_leaves_out_our_own(monkeypatch):
    clock, spent = [100.0], {"all": 1000.0, "own": 50.0}
    monkeypatch.setattr(loads, "_used", lambda: (clock[0], spent["all"], spent["own"]))
    monkeypatch.setattr(loads, "cores", lambda: 4)
    load = Load()
    clock[0] += 10
    spent["all"], spent["own"] = 1030.0, 60.0  # 30 s of 40 in all, 10 of them our own
    assert load.others() == pytest.approx(0.5)
    clock[0] += 10
    spent["all"], spent["own"] = 1050.0, 80.0
    assert load.others() == 0.0


def test_what_the_system_tells_of_processor_time_only_grows():
    first = loads._used()
    sum(range(10**6))
    second = loads._used()
    assert all(0 <= before <= after for before, after in zip(first, second, strict=True))
    assert first[2] < second[2]


def test_every_kind_of_work_counts_as_load_and_idling_does_not(monkeypatch):
    kinds = {"user": 1.0, "nice": 2.0, "system": 4.0, "irq": 8.0, "softirq": 16.0}
    other = {"idle": 1e6, "iowait": 1e6, "steal": 1e6, "dpc": 1e6}
    monkeypatch.setattr(loads.psutil, "cpu_times", lambda: SimpleNamespace(**kinds, **other))
    assert loads._used()[1] == 31.0
    few = SimpleNamespace(user=1.0, system=4.0, idle=9.0)  # Windows tells less
    monkeypatch.setattr(loads.psutil, "cpu_times", lambda: few)
    assert loads._used()[1] == 5.0


def test_a_long_block_is_handed_back_and_a_short_one_finished(watch, tmp_path, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(room.time, "monotonic", lambda: clock[0])
    watch.steps = 100
    for step in range(1, 11):
        clock[0] += 1.0
        watch.stepped(step)
    (tmp_path / room.LEAVE).touch()
    with pytest.raises(HandedBack):  # 89 s to go
        watch.stepped(11)
    for step in range(1, 90):
        clock[0] += 0.1
        if step < 85:
            (tmp_path / room.LEAVE).unlink(missing_ok=True)
        else:
            (tmp_path / room.LEAVE).touch()
        watch.stepped(step)  # the last 15 steps take 1.5 s


def test_its_files_stay_within_its_share_of_the_disk(watch, tmp_path):
    folder = RunFolder(tmp_path)
    for place in (folder.states, folder.blobs):
        place.mkdir()
    for number in (1, 2, 3):
        for path in (folder.state(number), folder.blob(str(number))):
            path.write_bytes(bytes(1000))
            os.utime(path, (number, number))
    edit(tmp_path, "disk = '4.2kB'")
    watch.look()
    watch.tidy(folder)
    assert sorted(p.name for p in folder.blobs.iterdir()) == ["3"]
    assert folder.saved_rounds() == [1, 2, 3]
    edit(tmp_path, "disk = '1 kB'")
    watch.look()
    watch.tidy(folder)
    assert folder.saved_rounds() == [3]
    assert (tmp_path / files.FILE).exists()


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA")
def test_memory_beyond_the_limit_is_an_error_and_not_the_end_of_the_machine(tmp_path):
    code = (
        "from duckweed.volunteer.controls import Controls\n"
        "from duckweed.volunteer.watch import hold_to\n"
        "from duckweed.run.error_words import words\n"
        "from pathlib import Path\n"
        "import numpy, os\n"
        "hold_to(Controls(memory='600MB', nice=7), 'cpu')\n"
        "numpy.zeros(50_000_000, numpy.uint8)[:] = 1\n"
        "try:\n    numpy.ones(900_000_000, numpy.uint8)\n"
        "except MemoryError as error:\n    print(os.nice(0), words(error, Path('here'), 'go on'))\n"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    nice, _, rest = said.stdout.partition(" ")
    assert int(nice) >= 7
    assert "ran out of memory" in rest
    assert "; then go on" in rest


INVITATION = Invitation("ab" * 32, "cd" * 32, ("192.0.2.1:4433",), "id.secret")


def test_a_place_keeps_its_invitation_to_itself(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PeerHomeError, match="join a run first"):
        find(None)
    place = PeerHome.of(str(INVITATION), None)
    assert find(None).invitation == PeerHome.of(None, place.home).invitation == INVITATION
    assert (place.peer / "invitation").stat().st_mode & 0o077 == 0
    other = msgspec.structs.replace(INVITATION, run="ef" * 32)
    with pytest.raises(PeerHomeError, match="another run"):
        PeerHome.of(str(other), place.home)
    assert not place.taking_part()
    with room_of(place):
        assert place.taking_part()
    PeerHome.of(str(other), None)
    with pytest.raises(PeerHomeError, match="name one of"):
        find(None)
    with pytest.raises(PeerHomeError, match="no peer lives there"):
        find(tmp_path)


def room_of(place):
    from duckweed.run.lock import alone

    return alone(place.lock, wait=False)


def test_a_service_starts_the_same_peer_and_holds_no_secret(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    place = PeerHome.of(str(INVITATION), tmp_path / "with space")
    text = unit(place, ["/usr/bin/duckweed"], ["stdlib"], "cpu")
    (command,) = [x for x in text.splitlines() if x.startswith("ExecStart=")]
    assert command == (
        f'ExecStart=/usr/bin/duckweed join --home "{tmp_path}/with space" --device cpu --data stdlib'
    )
    assert "secret" not in text
    assert quoted("100%") == "100%%"
    assert quoted('a "b') == '"a \\"b"'


def test_a_service_is_written_where_systemd_looks_for_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    name = f"duckweed-{'ab' * 6}.service"
    here = PeerHome.of(str(INVITATION), None)
    assert write(here, "text") == tmp_path / ".config" / "systemd" / "user" / name
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "set"))
    assert write(here, "text") == tmp_path / "set" / "systemd" / "user" / name
    assert (tmp_path / "set" / "systemd" / "user" / name).read_text() == "text"


def test_states_in_main_memory_are_asked_for_by_one_process_only(tmp_path):
    files.save(tmp_path, Controls(offload=True))
    assert files.load(tmp_path).offload
    with pytest.raises(ControlsError, match=r"--shard.*--no-offload"):
        changed(files.load(tmp_path), {"processes": 2})


def test_who_only_writes_answers_is_one_process_and_stays_so_until_it_trains_again(tmp_path):
    only = changed(Controls(), {"answers_only": True})
    files.save(tmp_path, only)
    assert files.load(tmp_path).answers_only
    assert "only writing answers" in only.said()
    with pytest.raises(ControlsError, match="one process"):
        changed(only, {"processes": 2})
    assert not changed(only, {"answers_only": False, "processes": 2}).answers_only
