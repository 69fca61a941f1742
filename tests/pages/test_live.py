"""The live page: true, up to date, harmless to the run, and not to be broken by what strangers write."""

import contextlib
import http.client
import json
import random
import re
import socket
import time

import pytest
from fixtures import commands, tiny

from duckweed import session
from duckweed.ledger.entries import PeerEntry, StateEntry
from duckweed.pages.live import server, show, site
from duckweed.pages.live.curve import POINTS, Line, plot, steps, thin
from duckweed.pages.live.estimate import time_left
from duckweed.pages.live.follow import Follower
from duckweed.pages.live.sections import Live, Terms, parts
from duckweed.pages.live.served import served
from duckweed.pages.live.server import PageError, address, serving
from duckweed.pages.live.site import Site
from duckweed.run import folder as folders
from duckweed.run.events import FinalLoss, PeerLeft, PeerProgress, Progress, RoundClosed, Sampled
from duckweed.run.folder import FolderError

from .browser import browser
from .made import BIT, append, close, record, run

EVIL = "</pre><script>alert(1)</script>\x1b[2J\u202e" + "x" * 10_000


@pytest.fixture
def three(tmp_path):
    """Three of four rounds are closed; in the second peer 1 did not count."""
    folder, _ = run(tmp_path / "three", 4)
    for number, rejected in enumerate([None, {1: "its norm is far"}, None]):
        close(folder, number, 8.0 - number, rejected)
        traffic = (80 * (number + 1), 10, 10, 20)
        record(folder, number, traffic, held_out=8.0 - number, seconds=60.0)
    return folder


def get(url, path="/", method="GET"):
    at = http.client.HTTPConnection(url.split("/")[2], timeout=10)
    with contextlib.closing(at):
        at.request(method, path)
        answer = at.getresponse()
        return answer, answer.read().decode()


def viewer(url, path="/events"):
    """A connection that has asked for events."""
    host, port = url.split("/")[2].split(":")
    it = socket.create_connection((host, int(port)), timeout=10)
    it.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    return it


def read_until(it, words, seconds=15):
    """What comes until the words do."""
    told, closes = "", time.monotonic() + seconds
    while words not in told:
        assert time.monotonic() < closes, told
        data = it.recv(1 << 16)
        assert data, told
        told += data.decode(errors="replace")
    return told


# --- what it says


def test_what_a_stranger_looks_for_is_there(three):
    three.record(Sampled(2, "green leaf"))
    doing = Progress(3, [PeerProgress(0, "training", 1, None), PeerProgress(1, "gone", 0, None)],
                     waiting="round 3: waiting for peer 0")  # fmt: skip
    follower = Follower(three)
    follower.look()
    made = parts(follower, Live(Terms("duckweed join X", ("1 GB of memory",)), doing), now=0.0)
    assert "<b>3</b> of 4 rounds, 75%" in made["now"]
    assert "Round 4: waiting for peer 0" in made["now"]
    assert "<b>1</b> <span>2 came in all</span>" in made["now"]
    assert "green leaf" in made["writes"]
    assert "1 × its norm is far" in made["peers"]
    assert "training" in made["peers"]
    assert "duckweed join X" in made["join"]
    assert "1 GB of memory" in made["join"]
    assert follower.head in made["proof"]
    assert made["loss"].count("<svg class=curve") == 3


def test_a_run_of_which_everybody_has_left_stands_still_and_promises_no_time(three):
    follower = Follower(three)
    follower.look()
    now = 1_800_000_000.0
    for seen in follower.rounds.values():
        seen.closed = now

    def made(doing):
        peers = [PeerProgress(i, doing, 1, None) for i in (0, 1)]
        told = Progress(3, peers, waiting="round 3: waiting for peers 0, 1")
        return parts(follower, Live(Terms(""), told), now=now)["now"]

    assert "stands still" not in made("training")
    assert "done around" in made("training")
    assert "The run stands still.</b> The last round closed at <time" in made("silent")
    assert "Nobody is here at the moment" in made("silent")
    assert "done around" not in made("silent")


def test_only_what_is_new_is_read_and_the_whole_is_the_same(three):
    early = Follower(three)
    early.look()
    assert not early.look()
    close(three, 3, 5.0)
    record(three, 3, (320, 10, 10, 20), held_out=5.0)
    three.record(FinalLoss(4.0 * BIT, 4, 100))
    assert early.look()
    late = Follower(three)
    late.look()
    assert parts(early, now=0.0) == parts(late, now=0.0)
    assert early.done


def test_a_run_is_done_though_an_earlier_state_is_agreed_on_after_the_last(three):
    close(three, 3, 5.0)
    append(three, 2, StateEntry("ab" * 32, 1))
    follower = Follower(three)
    follower.look()
    assert follower.done


def test_a_measurement_that_comes_before_its_round_is_kept_for_it(three):
    follower = Follower(three)
    record(three, 3, (320, 10, 10, 20), held_out=5.0)
    follower.look()
    close(three, 3, 5.0)
    follower.look()
    assert follower.rounds[3].held_out == 5.0 * BIT


def test_entries_that_another_leader_cut_off_are_forgotten(three):
    follower = Follower(three)
    follower.look()
    from duckweed.ledger.ledger import Ledger

    with contextlib.closing(Ledger(three.ledger, lambda message: b"signed")) as ledger:
        ledger.cut(ledger.number - 2)
    follower.look()
    assert len(follower.rounds) == 2


def test_what_strangers_write_cannot_become_part_of_the_page(three):
    close(three, 3, 5.0, {1: EVIL})
    three.record(PeerLeft(1, EVIL))
    three.record(Sampled(3, EVIL))
    append(three, 4, PeerEntry(2, EVIL))
    follower = Follower(three)
    follower.look()
    whole = "".join(parts(follower, Live(Terms(""), Progress(4, [], waiting=EVIL))).values())
    assert "<script" not in whole
    assert "\x1b" not in whole
    assert "\u202e" not in whole
    assert len(whole) < 60_000


def test_the_interval_of_the_estimate_holds_what_it_promises():
    draw, hits = random.Random(1), 0
    for _ in range(400):
        rounds = [draw.gauss(60, 10) for _ in range(40)]
        found = time_left(rounds[:15], 25)
        hits += found.low <= sum(rounds[15:]) <= found.high
    assert 0.85 < hits / 400 < 0.95
    assert time_left([60.0, 60.0], 5) is None
    assert time_left([], 0) == (0, 0, 0)


def test_a_long_curve_is_short_and_keeps_its_ends():
    points = [(float(x), float(x % 7)) for x in range(100_000)]
    kept = thin(points)
    assert len(kept) <= POINTS
    assert (kept[0], kept[-1]) == (points[0], points[-1])
    assert len(plot("t", [Line("a", "unseen", points)], str, "y", "x")) < 6000


@pytest.mark.parametrize(("low", "high"), [(0.8, 8.0), (2.0, 2.0), (0.0, 0.0), (1e-9, 2e-9), (3, 1e6)])  # fmt: skip
def test_the_steps_of_an_axis_enclose_it(low, high):
    found = steps(low, high)
    assert found[0] <= low <= high <= found[-1] + 1e-12
    assert 2 <= len(found) <= 7


# --- how it is served


def test_the_page_is_whole_without_javascript_and_lets_nothing_else_in(three):
    with serving(Site(three.path), server.ANY) as url:
        answer, text = get(url)
        assert "script-src 'self'" in answer.headers["Content-Security-Policy"]
        assert "<b>3</b> of 4 rounds" in text
        assert not re.search(r"<script(?! src)|style=|\son[a-z]+=", text)
        assert get(url, "/style.css")[0].status == get(url, "/live.js")[0].status == 200
        for path in ("/secret", "/run.toml", "/../secret", "/%2e%2e/secret", "/report"):
            assert get(url, path)[0].status == 404, path
        assert get(url, "/", "POST")[0].status == 405


def test_no_secret_is_in_what_is_served(tmp_path):
    folder, _ = run(tmp_path / "guarded", 2)
    folder.secret.write_text("open-sesame-0123456789")
    close(folder, 0, 8.0)
    with served(folder, "", None) as shown:
        told = get(shown.url)[1] + read_until(viewer(shown.url), "proof")
    assert "open-sesame" not in told


def test_viewers_see_a_round_when_it_has_closed(three, monkeypatch):
    monkeypatch.setattr(show, "LOOK", 0.1)
    with serving(Site(three.path), server.ANY) as url, viewer(url) as it:
        assert "<b>3</b> of 4" in read_until(it, "proof")
        close(three, 3, 5.0)
        assert "The run is over" in read_until(it, "<b>4</b> of 4")


def test_a_page_comes_back_where_it_was(three):
    with served(three, "", None) as shown:
        first = shown.url
        it = viewer(first)
        read_until(it, "proof")
    with it, contextlib.suppress(ConnectionError):
        while it.recv(1 << 16):  # the viewer hears the end, and asks again
            pass
    with served(three, "", None) as shown:
        assert shown.url == first
        assert get(first)[0].status == 200


def test_a_viewer_that_never_reads_is_cut_off_and_the_others_are_served(three, monkeypatch):
    monkeypatch.setattr(site, "STUCK", 0.5)
    monkeypatch.setattr(show, "LOOK", 0.05)
    three.record(Sampled(1, "x" * 1000))
    it = Site(three.path)
    with serving(it, server.ANY) as url:
        deaf = socket.socket()
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        host, port = url.split("/")[2].split(":")
        deaf.connect((host, int(port)))
        deaf.sendall(b"GET /events HTTP/1.1\r\nHost: x\r\n\r\n")
        one = next(iter(it.shows.values()))
        closes, number = time.monotonic() + 20, 0
        with deaf:
            while not (number and one.viewers == 0):
                assert time.monotonic() < closes
                number += 1
                three.record(Sampled(number % 4, str(number) * 1100))
                time.sleep(0.05)
                assert get(url)[0].status == 200


def test_a_port_that_is_taken_or_no_port_is_told(three):
    with contextlib.closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with (
            pytest.raises(PageError, match=r"taken by another program.*:0 for any"),
            serving(Site(three.path), f"127.0.0.1:{port}"),
        ):
            pass
        three.note({"page": f"127.0.0.1:{port}"})
        with served(three, "", None) as shown:  # elsewhere, then
            assert get(shown.url)[0].status == 200
    for text in ("8080", "host:", "127.0.0.1:99999", "a:b"):
        with pytest.raises(PageError, match="HOST:PORT"):
            address(text)
    with pytest.raises(PageError, match="no address"), serving(Site(three.path), "no.such.host:0"):
        pass


def test_a_folder_shows_its_runs_and_says_which_it_cannot_read(three, tmp_path):
    later, _ = run(tmp_path / "later", 2)
    later.spec.write_text(later.spec.read_text() + "\n[weather]\nsun = true\n")
    with serving(Site(tmp_path), server.ANY) as url:
        text = get(url)[1]
        assert 'href="run/three/"' in text
        assert "unknown key" in text
        assert "later version" in text
        assert "<b>3</b> of 4" in get(url, "/run/three/")[1]
        assert get(url, "/run/later/")[0].status == get(url, "/run/..%2f/")[0].status == 404
        run(tmp_path / "new", 2)
        assert 'href="run/new/"' in get(url)[1]
    (tmp_path / "empty").mkdir()
    with pytest.raises(FolderError, match="neither a run nor a folder of runs"):
        Site(tmp_path / "empty")


def test_a_ledger_of_a_later_version_is_told_and_not_a_crash(three):
    it = Site(three.path)
    with contextlib.closing(folders.RunFolder(three.path).metrics.open("a")) as file:
        file.write('{"event": "weather"}\n{"event": "round", "round": "x"}\n')
    with serving(it, server.ANY) as url:
        assert get(url)[0].status == 200
        three.ledger.write_bytes(b"no ledger at all" * 100)
        time.sleep(show.LOOK)
        assert get(url)[0].status == 200  # what was read before is still shown


CONTRAST = """(() => {
  const light = c => { const [r, g, b] = c.match(/[\\d.]+/g).map(x => { x /= 255;
    return x <= .04045 ? x / 12.92 : ((x + .055) / 1.055) ** 2.4; });
    return .2126 * r + .7152 * g + .0722 * b; };
  const paper = light(getComputedStyle(document.body).backgroundColor);
  const pairs = [...document.querySelectorAll("body *")].filter(x => x.innerText).map(x => {
    const ink = light(getComputedStyle(x).color);
    return (Math.max(ink, paper) + .05) / (Math.min(ink, paper) + .05); });
  return Math.min(...pairs);
})()"""


def test_prometheus_reads_the_figures(three):
    with serving(Site(three.path), server.ANY) as url:
        answer, text = get(url, "/metrics")
    assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    lines = text.splitlines()
    assert 'duckweed_rounds_closed_total{run="three"} 3' in lines
    assert 'duckweed_contributions_total{run="three",counted="no"} 1' in lines
    assert f'duckweed_loss_nats{{run="three",split="held_out"}} {6 * BIT:.12g}' in lines
    for line in lines:  # the format: https://prometheus.io/docs/instrumenting/exposition_formats/
        assert re.fullmatch(r'# (HELP|TYPE) \w+ .+|\w+\{(\w+="[^"]*",?)*\} [-+0-9.e]+', line), line


@pytest.mark.slow
def test_a_browser_shows_the_page_follows_the_run_and_survives_a_restart(three, tmp_path):
    with browser(tmp_path / "profile") as tab:
        with served(three, "", None) as shown:
            tab.call("Page.navigate", url=shown.url)
            tab.until("document.getElementById('now')?.innerText.includes('3 of 4')")
            tab.run("document.querySelector('label[for=by-bytes]').click()")
            tab.run("document.getElementById('specification').open = true")
            close(three, 3, 5.0)
            tab.until("document.getElementById('now').innerText.includes('4 of 4')")
            assert tab.run("document.getElementById('by-bytes').checked")
            assert tab.run("document.getElementById('specification').open")
            assert not tab.faults
            for dark in (False, True):
                tab.look(390, 800, dark)
                assert tab.run("document.documentElement.scrollWidth") <= 390
                assert tab.run(CONTRAST) >= 4.5
        tab.until("document.getElementById('said').innerText.includes('does not answer')")
        with served(three, "", None):
            tab.until("document.getElementById('said').innerText.includes('Connected again')")


def test_events_are_one_line_each(three):
    with serving(Site(three.path), server.ANY) as url, viewer(url) as it:
        told = read_until(it, "proof")
    data = next(x for x in told.split("data: ") if x.startswith("{")).split("\n")[0]
    with contextlib.suppress(json.JSONDecodeError):  # cut by the end of what was read
        assert set(json.loads(data)) >= {"now", "loss"}


def test_a_round_without_metrics_is_shown(tmp_path):
    folder, _ = run(tmp_path / "bare", 2)
    close(folder, 0, 8.0)
    folder.record(RoundClosed(round=0, seconds=1.0))
    follower = Follower(folder)
    follower.look()
    assert "<b>1</b> of 2" in parts(follower)["now"]


@pytest.mark.slow
def test_a_browser_shows_a_run_of_four_peers_from_its_start_to_its_end(tmp_path):
    spec = tiny.specification(tmp_path, {"rounds.count": 3, "rounds.peers": 4})
    folder, ground, _ = tiny.found(tmp_path, "pond", spec)
    it = session.Session(folder, spec, ground, "cpu", 1)
    with served(folder, "", None) as shown, browser(tmp_path / "profile") as tab:
        tab.call("Page.navigate", url=shown.url)
        tab.until("document.getElementById('now')?.innerText.includes('0 of 3')")
        for _ in shown.seen(session.train(it, 0, commands.forks())):
            pass
        tab.until("document.getElementById('now').innerText.includes('3 of 3')")
        tab.until("document.body.innerText.includes('The run is over')")
        assert not tab.faults
