"""The figures of a run, from a ledger and metrics written by hand."""

import pytest
from rich.console import Console

from duckweed.cli.views.summary import render_terminal
from duckweed.ledger.ledger import Ledger, LedgerError
from duckweed.pages.run_summary import Summary, fewer, readable, summarise, tried
from duckweed.round.run_log import Traffic, data_parallel_bytes, run_log
from duckweed.run.events import FinalLoss, RunEnded
from duckweed.run.spec import override

from .made import BIT, BYTES_PER_TOKEN, PARAMETERS, close, record, run


def summary_of(folder, spec, sample="") -> Summary:
    return summarise(folder, spec, PARAMETERS, BYTES_PER_TOKEN, sample)


@pytest.fixture
def three(tmp_path):
    """Three rounds in two sessions; in the second round peer 1 did not count."""
    folder, spec = run(tmp_path / "three", 3)
    close(folder, 0, 8.0)
    record(folder, 0, (100, 0, 10, 20), held_out=8.0)
    close(folder, 1, 6.0, {1: "its norm is far from the others'"})
    record(folder, 1, (200, 60, 20, 40), accepted=1, seconds=7.0)
    close(folder, 2, 4.0)
    # A new coordinator counts from zero; with what it sent for catching up it is beyond the old one
    # in updates and control, but not by a round's contributions.
    record(folder, 2, (210, 300, 50, 70), held_out=3.0)
    folder.record(FinalLoss(2.0 * BIT, 3, 5000))
    return folder, spec


def test_the_figures(three):
    got = summary_of(*three, sample="def x")
    assert (got.rounds, got.planned, got.peers, got.contributions, got.rejected) == (3, 3, 2, 5, 1)
    assert got.tokens == 500  # of five contributions that counted
    assert got.seconds == pytest.approx(17.0)
    assert got.held_out_start == pytest.approx(8.0)
    assert got.held_out_end == pytest.approx(2.0)
    assert got.state == f"{3:064x}"
    assert got.head == Ledger(three[0].ledger).head
    assert not got.simulated


def test_bytes_by_purpose_add_up_over_sessions(three):
    got = summary_of(*three)
    assert got.traffic == {
        "contributions": Traffic(410, 0),
        "updates": Traffic(0, 360),
        "control": Traffic(70, 110),
    }
    assert got.total == Traffic(480, 470)
    assert (got.up_per_peer, got.down_per_peer) == (240, 235)


def test_bytes_in_one_session_are_not_added_twice(tmp_path):
    folder, spec = run(tmp_path / "one-session", 3)
    for number in range(3):
        close(folder, number, 8.0)
        record(folder, number, (80 * (number + 1), 70 * number, 10, 10))
    assert summary_of(folder, spec).total == Traffic(250, 150)


def test_traffic_after_the_last_round_counts_where_it_is_recorded(tmp_path):
    folder, spec = run(tmp_path / "end", 1)
    close(folder, 0, 8.0)
    record(folder, 0, (80, 0, 10, 10))
    moved = {"contributions": [80, 0], "updates": [0, 140], "control": [12, 13]}
    folder.record(RunEnded(traffic=moved))
    assert summary_of(folder, spec).total == Traffic(92, 153)


def test_data_parallel_training_of_the_same_tokens(three):
    # Rounds with 2, 1 and 2 peers, 10 steps each: 2 (M - 1) / M x 2 bytes x 1,000 per peer and step.
    got = summary_of(*three)
    assert got.data_parallel == 2 * (10 * 2 * 2 * (1 / 2) * 2 * 1000)
    assert got.saving_up == pytest.approx(80_000 / 480)
    assert got.saving_down == pytest.approx(80_000 / 470)
    assert data_parallel_bytes(parameters=10, peers=4, steps=3) == 4 * 3 * (2 * 3 / 4 * 2 * 10)


def test_mean_seconds_by_phase(three):
    phases = summary_of(*three).phases
    assert phases["train"] == pytest.approx(4.5)
    assert phases["wait"] == pytest.approx(0.5)
    assert phases["apply"] == pytest.approx(0.25)
    assert phases["send"] == 0


def test_a_round_that_the_metrics_hold_twice_counts_as_it_came_last(tmp_path):
    folder, spec = run(tmp_path / "twice", 2)
    close(folder, 0, 8.0)
    record(folder, 0, (80, 0, 10, 10), held_out=9.0, seconds=100.0)
    record(folder, 0, (80, 0, 10, 10), held_out=8.0, seconds=5.0)
    got = summary_of(folder, spec)
    assert (got.rounds, got.tokens, got.seconds) == (1, 200, 5.0)
    assert got.held_out_start == pytest.approx(8.0)
    assert got.traffic["contributions"].up == 160  # but its bytes were moved twice


def test_what_is_not_in_the_ledger_has_not_happened(tmp_path):
    folder, spec = run(tmp_path / "lost", 2)
    close(folder, 0, 8.0)
    record(folder, 0, (80, 0, 10, 10))
    record(folder, 1, (160, 0, 10, 10), seconds=100.0)
    got = summary_of(folder, spec)
    assert (got.rounds, got.tokens, got.seconds) == (1, 200, 5.0)


def test_a_round_whose_metrics_a_crash_swallowed_keeps_its_tokens(tmp_path):
    folder, spec = run(tmp_path / "crash", 2)
    close(folder, 0, 8.0)
    with folder.metrics.open("a") as file:
        file.write('{"event": "round", "round": 0, "sec')
    close(folder, 1, 6.0)
    record(folder, 1, (160, 70, 10, 10))
    got = summary_of(folder, spec)
    assert (got.rounds, got.tokens, got.seconds) == (2, 400, 5.0)
    first = run_log(folder).rounds[0]
    assert (first.seconds, first.traffic, first.timings) == (None, None, {})
    assert first.loss == pytest.approx(8.0 * BIT)


def test_a_round_in_which_nothing_counted_has_no_loss(tmp_path):
    folder, spec = run(tmp_path / "nothing", 1)
    close(folder, 0, 8.0, {0: "not finite", 1: "not finite"})
    record(folder, 0, (80, 0, 10, 10), accepted=0)
    got = summary_of(folder, spec)
    assert (got.tokens, got.contributions, got.rejected, got.data_parallel) == (0, 0, 2, 0)
    assert run_log(folder).rounds[0].loss is None
    assert got.saving_up is None


def test_without_evaluation_nothing_is_claimed(tmp_path):
    folder, spec = run(tmp_path / "blind", 1)
    close(folder, 0, 8.0)
    record(folder, 0, (80, 0, 10, 10))
    got = summary_of(folder, spec)
    assert got.held_out_start is None
    assert got.held_out_end is None
    assert "not measured" in text_of(got)


def test_one_measurement_is_a_start_and_not_an_end(tmp_path):
    folder, spec = run(tmp_path / "started", 2)
    close(folder, 0, 8.0)
    record(folder, 0, (80, 0, 10, 10), held_out=8.0)
    got = summary_of(folder, spec)
    assert got.held_out_start == pytest.approx(8.0)
    assert got.held_out_end is None


def test_a_final_measure_of_an_earlier_round_is_passed_over(tmp_path):
    folder, spec = run(tmp_path / "earlier", 2)
    close(folder, 0, 8.0)
    folder.record(FinalLoss(5.0 * BIT, 1, 5000))
    close(folder, 1, 6.0)
    assert summary_of(folder, spec).held_out_end is None
    folder.record(FinalLoss(4.0 * BIT, 2, 5000))
    assert summary_of(folder, spec).held_out_end == pytest.approx(4.0)


def test_a_missing_ledger_and_foreign_metrics_are_named(tmp_path):
    folder, spec = run(tmp_path / "foreign", 1)
    close(folder, 0, 8.0)
    folder.metrics.write_text('{"event": "round", "round": "first", "seconds": 1.0}\n')
    with pytest.raises(ValueError, match=r"metrics\.jsonl: a line is not as duckweed writes it"):
        summary_of(folder, spec)
    folder.ledger.unlink()
    with pytest.raises(LedgerError, match="no such file"):
        summary_of(folder, spec)


@pytest.mark.parametrize(
    ("factor", "words"),
    [(1234.4, "1,234 times fewer"), (1.44, "1.4 times fewer"), (0.5, "2.0 times more")],
)
def test_a_saving_in_words(factor, words):
    assert fewer(factor) == words


def test_a_sample_cannot_act_on_the_terminal():
    assert (
        readable("a\tb\n\x1b[2Jc\x00")
        == "a\tb\n\N{REPLACEMENT CHARACTER}[2Jc\N{REPLACEMENT CHARACTER}"
    )


def text_of(summary: Summary) -> str:
    console = Console(width=120, color_system=None)
    with console.capture() as capture:
        console.print(render_terminal(summary))
    return capture.get()


def test_the_end_in_the_terminal_begins_with_the_verdict(three):
    lines = text_of(summary_of(*three, sample="def [bold]x[/]")).strip().splitlines()
    assert lines[0].startswith("It learned: 8.000 → 2.000 bits per byte of held-out text")
    text = "\n".join(lines)
    assert "2 peers, 3 of 3 rounds, 1,000 parameters" in text
    assert "5 contributions counted, 1 did not count" in text
    assert "167 times fewer bytes up, 170 times fewer down" in text
    assert "def [bold]x[/]" in text  # a model's text is not markup
    assert f"{three[0].path}/report.html" in text


def test_a_model_that_got_worse_is_said_to_have_learned_nothing(three):
    three[0].record(FinalLoss(9.0 * BIT, 3, 5000))
    assert "It did not learn: 8.000 → 9.000" in text_of(summary_of(*three))


def test_the_command_that_tries_the_model_is_of_its_task_and_text(tmp_path):
    folder, spec = run(tmp_path / "x", 1)
    other = override(spec, {"data.path": "books/"})
    assert tried(folder, override(spec, {"data.path": "stdlib"})).endswith("x --prompt 'def '")
    assert tried(folder, other) == f"duckweed generate {folder.path}"
    assert tried(folder, override(other, {"task.kind": "chat"})) == f"duckweed chat {folder.path}"
