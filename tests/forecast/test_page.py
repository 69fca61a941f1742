"""Claims, the command, and the page, whose sliders choose among what the program computed."""

import datetime as dt
import json
import re
import shutil
import subprocess
from pathlib import Path

import msgspec
import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from duckweed.cli.forecast import register
from duckweed.forecast import claims as cl
from duckweed.forecast import grid, outcome
from duckweed.forecast.data.table import own_facts
from duckweed.forecast.outlook import Outlook, crossings, csv_rows, fit_all, outlook
from duckweed.forecast.race import run
from duckweed.forecast.scenario import PRESETS, draw, with_world
from duckweed.forecast.setting import parse
from duckweed.pages.forecast_page import forecast_page

TODAY = dt.date(2026, 11, 23)


@pytest.fixture(scope="module")
def result() -> Outlook:
    return outlook(own_facts(TODAY), samples=600)


@pytest.fixture(scope="module")
def app() -> typer.Typer:
    app = typer.Typer(pretty_exceptions_enable=False)
    app.callback()(lambda: None)
    register(app)
    return app


def ask(app: typer.Typer, *words: str):
    return CliRunner().invoke(app, ["forecast", *words])


def test_verdicts_of_the_five_claims(result: Outlook) -> None:
    found = cl.claims(result)
    assert [c.verdict for c in found] == [
        "confirmed", "confirmed", "conditional", "conditional", "conditional",
    ]  # fmt: skip
    assert all(c.because and c.numbers and c.depends for c in found)


def test_verdicts_follow_the_numbers(result: Outlook) -> None:
    """The same words, other numbers, other verdicts."""
    slow = msgspec.structs.replace(
        result.cadence, recent=msgspec.structs.replace(result.cadence.recent, median_days=300.0)
    )
    assert cl.cadence(msgspec.structs.replace(result, cadence=slow)).verdict == "refuted"
    near = msgspec.structs.replace(result.china_gap, orders=0.4)
    assert cl.feasible(msgspec.structs.replace(result, china_gap=near)).verdict == "conditional"
    both = msgspec.structs.replace(result, china_gap=near, frontier_gap=near)
    assert cl.feasible(both).verdict == "refuted"
    soon = msgspec.structs.replace(
        result.crossings["frontier"], by={2030: 0.9, 2035: 0.95}, never=0.0
    )
    assert (
        cl.dust(msgspec.structs.replace(result, crossings={"frontier": soon})).verdict == "refuted"
    )


def test_growth_set_by_the_user_moves_the_crossing() -> None:
    facts, names = own_facts(TODAY), ["frontier", "decentralised"]
    fast = parse(["decentralised.growth=20x", "frontier.growth=5x"], names)
    same = parse(["decentralised.growth=5x", "frontier.growth=5x"], names)
    assert crossings(fit_all(facts, fast), fast)["frontier"].never == 0
    assert crossings(fit_all(facts, same), same)["frontier"].never == 1


def test_before_there_were_decentralised_runs_it_says_so() -> None:
    early = outlook(own_facts(dt.date(2023, 6, 1)), samples=200)
    found = {c.number: c for c in cl.claims(early)}
    assert found[3].verdict == "no data"
    assert any("decentralised records: " in line for line in early.missing)


def test_terminal_output_begins_with_the_verdict(app: typer.Typer) -> None:
    answer = ask(app, "--as-of", "2026-11-23", "--samples", "200")
    assert answer.exit_code == 0, answer.output
    head = answer.output.splitlines()
    assert head[2] == "The essay's claims"
    assert head[3].split()[:2] == ["1", "confirmed"]
    assert "fewer than five" in answer.output
    assert max(map(len, head)) <= 110


def test_json_and_markdown(app: typer.Typer, tmp_path: Path) -> None:
    page = tmp_path / "claims.md"
    words = ("--as-of", "2026-11-23", "--samples", "200", "--json", "--markdown", str(page))
    body = json.loads(ask(app, *words).stdout)
    assert [c["number"] for c in body["claims"]] == [1, 2, 3, 4, 5]
    assert page.read_text("utf-8").count("\n## ") == 5


def test_csv_is_flat(result: Outlook) -> None:
    rows = csv_rows(result)
    assert rows[0] == ("kind", "what", "quantity", "value")
    assert all(len(row) == 4 for row in rows)
    assert {row[0] for row in rows[1:]} == {"growth per year", "crossing", "race"}


def test_race_and_explain(app: typer.Typer, tmp_path: Path) -> None:
    answer = ask(app, "--race", "collective", "--samples", "300", "--set", "returns=0.6")
    assert answer.exit_code == 0, answer.output
    assert "collective (started" in answer.output
    assert "Regimes" in answer.output
    returns = tmp_path / "r.json"
    returns.write_text('{"mean": 3, "low": 2.5, "high": 3.4}', "utf-8")
    words = ("--race", "peers", "--samples", "300", "--json")
    free = json.loads(ask(app, *words).stdout)["followers"][0]["chance"][0]
    high = json.loads(ask(app, *words, "--returns", str(returns)).stdout)["followers"][0]["chance"][
        0
    ]
    assert high > 0.8 > free
    told = ask(app, "--explain")
    assert told.output.count("source: ") >= 20


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--race", "nope"], "no preset"),
        (["--as-of", "soon"], "YYYY-MM-DD"),
        (["--as-of", "2018"], "starts with GPT-2"),
        (["--data", "none.csv"], "cannot read"),
        (["--set", "x=1"], "no series x"),
        (["--json", "--csv"], "contradict"),
        (["--returns", "none.json"], "cannot read"),
        (["--race", "essay", "--set", "luck=1"], "unknown parameter luck"),
    ],
)
def test_errors_are_one_line(app: typer.Typer, words: list[str], says: str) -> None:
    answer = ask(app, *words)
    assert answer.exit_code == 2
    assert says in answer.stderr
    assert answer.stderr.strip().count("\n") == 0


@pytest.fixture(scope="module")
def page(result: Outlook) -> str:
    return forecast_page(own_facts(TODAY), parse([], []), result, cl.claims(result))


def test_page_is_one_file_and_fetches_nothing(page: str) -> None:
    assert not re.search(r'(src|href)="https?:', page.split("<script>")[0])
    assert page.count('class="figure"') == 5
    assert len(page) < 2.5e6


def chosen(page: str) -> dict[str, dict]:
    found = re.search(r'id="choices">(.*?)</script>', page, re.DOTALL)
    assert found
    return {choice["figure"]: choice for choice in json.loads(found[1])}


def test_the_sliders_have_a_row_for_every_combination_of_their_values(page: str) -> None:
    choices = chosen(page)
    assert choices.keys() == {"race", "compute"}
    for choice in choices.values():
        for part in (*choice["curves"], *choice["sentences"]):
            sizes = [len(choice["axes"][i]["shown"]) for i in part["over"]]
            assert len(part["rows"]) == np.prod(sizes)
        for curve in choice["curves"]:
            assert {len(row) for row in curve["rows"]} == {len(choice["x"])}


def test_every_race_of_the_sliders_is_the_scenario_with_those_values() -> None:
    """Rows from all corners of the grid against the same race run alone, which takes other steps: at
    the default step the two are within 2 %."""
    table = grid.races(PRESETS["essay"])
    axes = grid.combinations(grid.RETURNS, grid.AUTOMATED, grid.LAGS, grid.COMPUTE, grid.LEAKS)
    for row in (0, 7, 100, 333, 500, len(axes[0]) - 1):
        returns, automated, lag, compute, leak = (float(axis[row]) for axis in axes)
        one = draw(with_world(PRESETS["essay"], {
            "returns": returns, "automation_start": automated, "follower.lag": lag,
            "follower.compute": compute, "follower.leak": leak,
        }), 1)  # fmt: skip
        track = run(one.law, one.actors, outcome.months(grid.HORIZON))
        gap = track.gap_years(one.share, one.compute_rate, one.actors.behind)[:, 1, 0]
        assert table.gap[row] == pytest.approx(gap, rel=0.02)
        assert table.lag[row] == pytest.approx(track.lag[:, 1, 0], abs=0.01)
        followers = len(grid.LAGS) * len(grid.COMPUTE) * len(grid.LEAKS)
        front = track.level[:, 0, 0] * one.share[0] / one.law.today
        front = front + (1 - one.share[0]) * one.compute_rate[0] * track.times
        assert table.front[row // followers] == pytest.approx(front, rel=0.02)


def test_no_follower_of_the_sliders_passes_the_leader() -> None:
    """Which is why the leader's curve does not depend on the follower."""
    assert grid.races(PRESETS["essay"]).gap.min() >= 0


def test_crossings_of_the_sliders_are_those_of_two_straight_lines() -> None:
    fits = fit_all(own_facts(TODAY))
    found = grid.crossings(fits, 2040.0)
    assert found is not None
    apart = found.frontier[0, 0] - found.crowd[0, 0]
    growth = grid.combinations(grid.FRONTIER, grid.CROWD, grid.FADES)
    row = int(np.flatnonzero((growth[0] == 5) & (growth[1] == 20) & np.isinf(growth[2]))[0])
    assert found.meets[row] == pytest.approx(fits.now + apart / np.log10(4), abs=0.01)
    slow = int(np.flatnonzero((growth[0] == 5) & (growth[1] == 20) & (growth[2] == 1))[0])
    assert np.isinf(found.meets[slow])


def test_before_there_were_decentralised_runs_only_the_race_has_sliders() -> None:
    facts = own_facts(dt.date(2023, 6, 1))
    early = outlook(facts, samples=200)
    text = forecast_page(facts, parse([], []), early, cl.claims(early))
    assert chosen(text).keys() == {"race"}
    assert 'id="crossing"' not in text


def test_a_browser_shows_what_a_moved_slider_chooses(page: str, tmp_path: Path) -> None:
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no chromium here: the sliders were not moved in a browser")
    race = chosen(page)["race"]
    move = """<script>
      const slider = document.querySelectorAll("input[data-choice=race]")[0];
      slider.value = 5; slider.dispatchEvent(new Event("input"));
      const drawn = document.createElement("p"); drawn.id = "drawn";
      drawn.textContent = document.getElementById("race").data[0].y.join(" ");
      document.body.append(drawn);
    </script></body>"""
    file = tmp_path / "page.html"
    file.write_text(page.replace("</body>", move), "utf-8")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
             "--disable-background-networking", "--disable-component-update", "--disable-sync",
             f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=10000"]  # fmt: skip
    dom = subprocess.run([browser, *flags, "--dump-dom", file.as_uri()], capture_output=True,
                         text=True, timeout=180, check=True).stdout  # fmt: skip
    assert re.search(r'id="crossing">[^<]*reaches the frontier', dom)
    sizes = [len(axis["shown"]) for axis in race["axes"]]
    row = int(np.ravel_multi_index([5, *(a["start"] for a in race["axes"][1:])], sizes))
    said = re.search(r'id="race-says">([^<]*)', dom)
    assert said is not None
    assert said[1] == race["sentences"][0]["rows"][row]
    drawn = re.search(r'id="drawn">([^<]*)', dom)
    assert drawn is not None
    assert [float(y) for y in drawn[1].split()] == race["curves"][0]["rows"][row]
