"""The report of a run: whole, self-contained, and not to be broken by what is put into it."""

import json
from html.parser import HTMLParser

import pytest

from duckweed.pages.page import page, table, templates
from duckweed.pages.run_page import BARS, loss_plot, peers_plot, run_page, time_plot
from duckweed.pages.run_summary import summarise
from duckweed.round.run_log import run_log
from duckweed.run.events import FinalLoss, RoundClosed

from .made import BIT, BYTES_PER_TOKEN, PARAMETERS, close, record, run

SLOTS = {"loss-tokens", "loss-bytes", "time", "peers"}


class Reader(HTMLParser):
    """Collects tags, their attributes, and the text inside of each kind of tag."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.inside: dict[str, list[str]] = {}
        self._open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "img"):
            self._open.append(tag)

    def handle_endtag(self, tag):
        while self._open and self._open.pop() != tag:
            pass

    def handle_data(self, data):
        for tag in self._open[-1:]:
            self.inside.setdefault(tag, []).append(data)


def made(folder, spec, sample="def x(): return 1"):
    summary = summarise(folder, spec, PARAMETERS, BYTES_PER_TOKEN, sample)
    return summary, run_page(folder, spec, summary)


def figures_of(read: Reader) -> dict:
    return json.loads(next(text for text in read.inside["script"] if text.startswith('{"loss-')))


@pytest.fixture
def two(tmp_path):
    """Two rounds, evaluated and finished; in the second peer 1 did not count."""
    folder, spec = run(tmp_path / "two", 2)
    close(folder, 0, 8.0)
    record(folder, 0, (80, 0, 10, 20), held_out=8.0)
    close(folder, 1, 6.0, {1: "its norm is <far> from the others'"})
    record(folder, 1, (160, 140, 20, 40), held_out=7.0, train=2.0)
    folder.record(FinalLoss(2.0 * BIT, 2, 5000))
    return folder, spec


def test_nothing_is_loaded_from_anywhere(two):
    read = Reader(made(*two)[1])
    assert not [
        tag for tag, _ in read.tags if tag in ("link", "img", "iframe", "object", "embed", "base")
    ]
    assert not [attrs for _, attrs in read.tags if {"src", "href", "srcset", "data"} & attrs.keys()]
    style = "".join(read.inside["style"])
    assert "url(" not in style
    assert "@import" not in style


def test_every_figure_has_its_slot_and_every_slot_its_figure(two):
    read = Reader(made(*two)[1])
    slots = {attrs["id"] for _, attrs in read.tags if attrs.get("class") == "figure"}
    assert slots == SLOTS == figures_of(read).keys()


def test_what_a_person_looks_for_is_there(two):
    summary, whole = made(*two)
    text = " ".join(part for parts in Reader(whole).inside.values() for part in parts)
    assert "2 peers trained a model of 1 K parameters: from 8.00 to 2.00 bits per byte" in text
    for part in (summary.head, summary.state, two[1].identity, "def x(): return 1", "[rounds]"):
        assert part in text
    assert "2 (M - 1) / M x 2 bytes x P" in text


@pytest.mark.parametrize(
    "kind", ["one round", "no evaluation", "nothing counted", "no metrics", "no rounds"]
)
def test_runs_with_little_to_show_have_a_whole_page(tmp_path, kind):
    folder, spec = run(tmp_path / "little", 1)
    if kind != "no rounds":
        close(folder, 0, 8.0, {0: "late", 1: "late"} if kind == "nothing counted" else None)
    if kind not in ("no metrics", "no rounds"):
        record(folder, 0, (80, 0, 1, 1), held_out=8.0 if kind == "one round" else None)
    read = Reader(made(folder, spec, sample="")[1])
    assert figures_of(read).keys() == ({"loss-tokens"} if kind == "no metrics" else SLOTS)


def test_a_report_without_the_coordinators_measurements_claims_no_times_and_no_bytes(tmp_path):
    folder, spec = run(tmp_path / "peer", 1)
    close(folder, 0, 8.0)
    folder.record(FinalLoss(2.0 * BIT, 1, 5000))
    text = " ".join(x for parts in Reader(made(folder, spec)[1]).inside.values() for x in parts)
    assert "2 peers trained a model of 1 K parameters to 2.00 bits per byte of unseen text" in text
    assert "only the coordinator has measured" in text
    for nothing in ("0 ms", "0 B", "not measured"):
        assert nothing not in text.split("DOCTYPE")[0].split("figures")[0]


def test_a_column_of_numbers_stands_to_the_right_and_one_of_words_to_the_left():
    rows = [("a", "1.5 s", "6 x parameters x tokens, from a press report", "–"), ("b", "", "a source", "2"),
            ("c", "not known", "1 source", "-"), ("d", "3", "two", "1")]  # fmt: skip
    found = table(("name", "took", "source", "count"), rows)
    assert [cell.right for cell in found.head] == [False, True, False, True]
    assert all([c.right for c in row] == [c.right for c in found.head] for row in found.rows)
    assert not table(("key",), [("12ab",)], words=("key",)).head[0].right


def test_loss_is_drawn_where_it_was_measured(two):
    folder, spec = two
    summary, _ = made(folder, spec)
    training, held_out = loss_plot(run_log(folder), summary, "tokens")["data"]
    assert training["x"] == [200, 300]
    assert training["y"] == pytest.approx([8.0, 6.0])
    assert held_out["x"] == [0, 200, 300]  # of the state before each round, and of the last
    assert held_out["y"] == pytest.approx([8.0, 7.0, 2.0])
    training, held_out = loss_plot(run_log(folder), summary, "bytes")["data"]
    assert training["x"] == [110, 360]
    assert held_out["x"] == [0, 110, 360]


def test_phases_stack_to_the_mean_of_the_peers(two):
    bars = {trace["name"]: trace for trace in time_plot(run_log(two[0]).rounds)["data"]}
    assert bars["train"]["y"] == pytest.approx([4.5, 2.5])
    assert bars["wait"]["y"] == pytest.approx([0.5, 0.5])
    assert "send" not in bars  # nobody spent any time on it
    assert bars["slowest peer, without waiting"]["y"] == pytest.approx([5.5, 3.5])


def test_many_rounds_share_bars(two):
    rounds = run_log(two[0]).rounds * BARS
    assert len(time_plot(rounds)["data"][0]["x"]) == BARS


def test_peers_show_speed_and_what_did_not_count(two):
    heat, crosses = peers_plot(run_log(two[0]), lambda round_: 1000)["data"]
    assert heat["z"] == [[250.0, 500.0], [200.0, pytest.approx(333.33)]]
    assert (crosses["x"], crosses["y"]) == ([1], [1])
    assert crosses["text"] == ["its norm is &lt;far&gt; from the others&#x27;"]


def test_a_sample_or_a_reason_cannot_become_part_of_the_page(two):
    folder, spec = two
    close(folder, 2, 5.0, {1: "</script><img src=x>"})
    _, text = made(folder, spec, sample="</pre><script>alert(1)</script>")
    assert "<script>alert" not in text
    assert "<img" not in text


def test_the_slowest_peer_is_busy_for_its_phases_and_not_for_the_whole_round_as_well(tmp_path):
    folder, _ = run(tmp_path / "walled", 1)
    close(folder, 0, 8.0)
    timings = {peer: {"train": 4.0, "wait": 1.0, "wall": 5.2} for peer in (0, 1)}
    folder.record(RoundClosed(round=0, seconds=5.2, timings=timings))
    assert time_plot(run_log(folder).rounds)["data"][-1]["y"] == [4.0]


def test_heads_stand_over_their_numbers():
    draw = templates().get_template("macros.html").module.table
    text = str(draw(table(("name", "bytes"), [("a", "1 kB"), ("b", 2)])))
    assert '<th scope="col">name</th><th scope="col" class=number>bytes</th>' in text
    assert "<td>b</td><td class=number>2</td>" in text
    assert '<th scope="col">name</th><th scope="col">bytes</th>' in str(
        draw(table(("name", "bytes"), []))
    )


def test_what_stands_in_a_table_is_text():
    draw = templates().get_template("macros.html").module.table
    text = str(draw(table(("<b>",), [("</td><script>",)])))
    assert "&lt;b&gt;" in text
    assert "<script>" not in text


def test_a_figure_that_is_not_finite_is_refused():
    with pytest.raises(ValueError, match="not JSON compliant"):
        page("base.html", "x", {"a": {"data": [{"y": [float("nan")]}]}})
