"""Files: Epoch's formats, refresh, scenarios, returns, and what happens when they are wrong."""

import datetime as dt
import json
from pathlib import Path

import pytest

from duckweed.forecast.data.epoch import refresh, with_file
from duckweed.forecast.data.measured import MeasuredReturns, read_returns
from duckweed.forecast.data.table import (
    Model,
    TableError,
    date_of,
    own_facts,
    parse_date,
    parse_rows,
    year_of,
)
from duckweed.forecast.outcome import outcome
from duckweed.forecast.scenario import (
    PRESETS,
    ScenarioError,
    Spread,
    check,
    draw,
    load,
    with_world,
)

TODAY = dt.date(2026, 11, 23)
MODELS = """Model,Domain,Publication date,Training compute (FLOP),Organization,Model accessibility,Country (of organization)
Old,Language,2020-05-28,3.14e+23,OpenAI,API access,United States of America
Picture,Vision,2021-01-01,1e+24,OpenAI,API access,United States of America
Dark,Language,2021-06-01,,OpenAI,API access,United States of America
Open,"Language,Vision",2022-07-11,4e+23,"Z.ai (Zhipu AI),Tsinghua University",Open weights (unrestricted),"China,China"
New,Multimodal,2025-02-17,3.5e+26,xAI,API access,United States of America
"""
SCORES = """Model version,ECI Score,Release date,Organization,Country,Model accessibility
a,120.5,2024-01-02,OpenAI,United States of America,API access
b,,2024-02-02,OpenAI,United States of America,API access
c,125,2024-03-02,Meta AI,United States of America,Open weights (restricted use)
d,130,2024-06-02,Google DeepMind,United States of America,API access
"""


def write(folder: Path, text: str, name: str = "file.csv") -> Path:
    path = folder / name
    path.write_text(text, "utf-8")
    return path


def test_epochs_model_file(tmp_path: Path) -> None:
    facts = with_file(own_facts(TODAY), write(tmp_path, MODELS))
    assert [m.name for m in facts.models] == ["Old", "Open", "New"]
    assert (facts.models[1].maker, facts.models[1].country, facts.models[1].open) == (
        "Zhipu",
        "CN",
        True,
    )
    assert "CC-BY" in facts.notes[0]


def test_epochs_index_file(tmp_path: Path) -> None:
    facts = with_file(own_facts(TODAY), write(tmp_path, SCORES))
    assert [(s.name, s.maker, s.open) for s in facts.scores] == [
        ("a", "OpenAI", False), ("c", "Meta", True), ("d", "Google", False),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no header"),
        ("a,b\n1,2\n", "not a file of Epoch AI"),
        (MODELS.splitlines()[0] + "\n", "0 language models"),
        (MODELS.replace("3.14e+23", "lots"), "row 2: Training compute .* 'lots'"),
        (MODELS.replace("3.14e+23", "-5"), "expected a positive number"),
        (MODELS.replace("2020-05-28", "yesterday"), "expected YYYY-MM-DD"),
        (MODELS.replace("Language", "Games").replace("Multimodal", "Games"), "at least three"),
    ],
)
def test_wrong_files_say_what_was_expected(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(TableError, match=says):
        with_file(own_facts(TODAY), write(tmp_path, text))


def test_missing_and_binary_files(tmp_path: Path) -> None:
    with pytest.raises(TableError, match="No such file"):
        with_file(own_facts(TODAY), tmp_path / "none.csv")
    (tmp_path / "b.csv").write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(TableError, match="not a text file"):
        with_file(own_facts(TODAY), tmp_path / "b.csv")


def test_a_date_before_the_data() -> None:
    with pytest.raises(TableError, match="starts with GPT-2"):
        own_facts(dt.date(2018, 1, 1))


def test_refresh_says_what_changed(tmp_path: Path) -> None:
    source = write(tmp_path, MODELS, "source.csv")
    urls = {"models.csv": source.as_uri()}
    first = refresh(tmp_path / "data", urls)[0]
    assert (first.before, first.after) == (0, 5)
    source.write_text(MODELS.replace("Old,", "Older,"), "utf-8")
    second = refresh(tmp_path / "data", urls)[0]
    assert (second.new, second.gone) == (["Older"], ["Old"])
    source.write_text("nothing\n1\n", "utf-8")
    with pytest.raises(TableError, match="no column of model names"):
        refresh(tmp_path / "data", urls)
    assert "Older" in (tmp_path / "data/models.csv").read_text("utf-8")
    source.unlink()
    with pytest.raises(TableError, match="could not fetch"):
        refresh(tmp_path / "data", urls)


def test_own_tables_are_checked() -> None:
    head = "name,date,maker,country,access,compute_flop,basis,source\n"
    with pytest.raises(TableError, match="basis must be one of"):
        parse_rows(head + "a,2020-01-01,b,US,open,1,guess,c\n", Model, "models")
    with pytest.raises(TableError, match="no column"):
        parse_rows("name,date\n", Model, "models")


@pytest.mark.parametrize("text", ["2026-03-10", "2026-03", "2026"])
def test_dates(text: str) -> None:
    date = parse_date(text)
    assert date_of(year_of(date)) == date


@pytest.mark.parametrize("text", ["", "26-03-10", "2026-13", "2026-03-10-1", "soon"])
def test_no_dates(text: str) -> None:
    with pytest.raises(ValueError, match="YYYY-MM-DD"):
        parse_date(text)


SCENARIO = """
name = "mine"
about = "a shared file"
horizon = 2.0
[world]
returns = { central = 1.5, low = 1.0, high = 2.0 }
[[actors]]
name = "lab"
[[actors]]
name = "crowd"
lag = 12
compute = 0.01
leak = 0.5
[[cuts]]
start = 3
end = 9
hits = ["crowd"]
"""


def test_scenario_files(tmp_path: Path) -> None:
    scenario = load(str(write(tmp_path, SCENARIO, "mine.toml")))
    assert scenario.world["returns"] == Spread(1.5, 1.0, 2.0)
    result = outcome(scenario, 200)
    assert result.followers[0].name == "crowd"
    assert result.followers[0].start == pytest.approx(1.0)
    drawn = draw(scenario, 500)
    assert drawn.law.returns.min() >= 1.0
    assert drawn.law.returns.max() <= 2.0


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("returns =", "luck =", "unknown parameter luck"),
        ("low = 1.0", "low = 1.8", "low <= central <= high"),
        ('hits = ["crowd"]', 'hits = ["nobody"]', "no actor is called nobody"),
        ("end = 9", "end = 1", "must end after it starts"),
        ("leak = 0.5", "leak = 1.5", "crowd.leak = 1.5 is outside"),
        ('name = "crowd"', 'name = "lab"', "two actors share a name"),
        ("horizon = 2.0", "horizon = 0", "horizon must lie"),
        ("lag = 12", "lag = 'long'", "docs/forecast.md"),
        ("lag = 12", "speed = 12", "docs/forecast.md"),
        ("[world]", "[world", "docs/forecast.md"),
    ],
)
def test_wrong_scenarios_say_what_was_expected(
    tmp_path: Path, old: str, new: str, says: str
) -> None:
    with pytest.raises(ScenarioError, match=says):
        load(str(write(tmp_path, SCENARIO.replace(old, new), "mine.toml")))


def test_unknown_presets_and_settings() -> None:
    with pytest.raises(ScenarioError, match="no preset is called nope; there are essay"):
        load("nope")
    with pytest.raises(ScenarioError, match=r"unknown setting rival\.luck"):
        with_world(PRESETS["collective"], {"rival.luck": 1.0})
    with pytest.raises(ScenarioError, match="unknown parameter luck"):
        with_world(PRESETS["collective"], {"luck": 1.0})
    for preset in PRESETS.values():
        check(preset)


def test_returns_files(tmp_path: Path) -> None:
    body = {"mean": 1.4, "low": 1.1, "high": 1.8, "level": 0.9, "accepted": 12, "made": "by evolve"}
    found = read_returns(write(tmp_path, json.dumps(body), "r.json"))
    assert found == MeasuredReturns(1.4, 1.1, 1.8, 0.9, 12)
    assert found.spread == Spread(1.4, 1.1, 1.8, "lognormal", 0.9)
    assert found.caution is None
    toml = "mean = 1.4\nlow = 1.1\nhigh = 1.8\n"
    assert read_returns(write(tmp_path, toml, "r.toml")).level == 0.95
    with pytest.raises(ScenarioError, match=r"holds no returns\.json"):
        read_returns(tmp_path)
    body |= {"mostly_prior": True, "accepted": 3}
    write(tmp_path, json.dumps(body), "returns.json")
    assert "3 accepted" in (read_returns(tmp_path).caution or "")
    for text, says in (
        ('{"mean": 1}', "docs/forecast.md"),
        ('{"mean": "high", "low": 1, "high": 2}', "docs/forecast.md"),
        ('{"mean": 3, "low": 1, "high": 2}', "low <= central"),
        ('{"mean": 1, "low": -1, "high": 2}', "needs low > 0"),
        ('{"mean": 1, "low": 0.5, "high": 1e9}', "outside 0.01 to 100"),
        ('{"mean": 1, "low": 0.5, "high": 2, "level": 95}', "level must lie"),
        ('{"mean": 1, "low": 0.5, "high": 2, "accepted": -1}', "must not be negative"),
        ("[]", "docs/forecast.md"),
        ("{", "docs/forecast.md"),
    ):
        with pytest.raises(ScenarioError, match=says):
            read_returns(write(tmp_path, text, "r.json"))
    with pytest.raises(ScenarioError, match=r"expected a \.json or \.toml"):
        read_returns(write(tmp_path, "{}", "r.txt"))
