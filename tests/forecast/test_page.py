"""Claims, the command, and the page, whose arithmetic must agree with the program's."""

import datetime as dt
import json
import re
import shutil
import subprocess
from pathlib import Path

import msgspec
import pytest
import typer
from typer.testing import CliRunner

from duckweed.cli.forecast import register
from duckweed.forecast import claims as cl
from duckweed.forecast.outlook import Outlook, crossings, csv_rows, fit_all, outlook
from duckweed.forecast.setting import parse
from duckweed.forecast.table import own_facts
from duckweed.pages.forecast_page import forecast_page, reference_crossing

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


def test_page_is_whole(result: Outlook, tmp_path: Path) -> None:
    """One file, nothing fetched; and, where a browser is at hand, the page's own results."""
    text = forecast_page(own_facts(TODAY), parse([], []), result, cl.claims(result))
    assert not re.search(r'(src|href)="https?:', text.split("<script>")[0])
    assert text.count('class="figure"') == 5
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no chromium here: the page's arithmetic was not checked in a browser")
    page = tmp_path / "page.html"
    page.write_text(text, "utf-8")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
             "--disable-background-networking", "--disable-component-update", "--disable-sync",
             f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=10000"]  # fmt: skip
    dom = subprocess.run([browser, *flags, "--dump-dom", page.as_uri()], capture_output=True,
                         text=True, timeout=180, check=True).stdout  # fmt: skip
    said = re.search(r"at most ([\d.]+) % in (\d+) races and by ([\d.]+) years in (\d+)", dom)
    assert said, "the page's check did not run"
    assert float(said[1]) < 5
    assert float(said[3]) < 0.01
    assert re.search(r'id="crossing">[^<]*reaches the frontier', dom)


def test_crossing_of_the_sliders() -> None:
    levels = {"frontier": 27.0, "decentralised": 24.0}
    steady = reference_crossing(levels, 2026.9, 5.0, 20.0, 21.0)
    assert steady == pytest.approx(2026.9 + 3 / 0.60206, abs=0.01)
    assert reference_crossing(levels, 2026.9, 5.0, 20.0, 1.0) is None
