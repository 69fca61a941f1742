"""Plug-ins: loaded once, remembered by a run, and never run because a folder says so."""

import json
import shutil
import sys

import pytest

from duckweed.run import plugins
from duckweed.run.folder import RunFolder
from duckweed.run.plugins import PluginError
from duckweed.run.registry import RULES
from duckweed.run.spec import RunSpec, SpecError, members, override

RULE = """
from duckweed.merge.rules import register_rule
register_rule("ours", lambda total: total.mean())
"""


@pytest.fixture(autouse=True)
def registry(monkeypatch, tmp_path):
    monkeypatch.setattr(RULES, "_found", dict(RULES._found))
    monkeypatch.setattr(plugins, "_loaded", {})
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(RULE)
    return path


@pytest.fixture
def folder(tmp_path, file, monkeypatch):
    """Of a run with the plug-in, as a new process finds it."""
    found = RunFolder(tmp_path / "run")
    plugins.remember(found, plugins.load([file]))
    as_a_new_process(monkeypatch)
    return found


def as_a_new_process(monkeypatch):
    monkeypatch.setattr(plugins, "_loaded", {})
    for name in [name for name in sys.modules if name.startswith("duckweed_plugin_")]:
        del sys.modules[name]
    RULES._found.pop("ours", None)


def test_what_a_plugin_registers_can_be_named_and_is_unknown_before(file):
    with pytest.raises(SpecError, match=r"merge\.rule = 'ours' is not known here.*--plugin"):
        override(RunSpec(), {"merge.rule": "ours"})
    plugins.load([file])
    plugins.load([file])  # once more changes nothing
    assert override(RunSpec(), {"merge.rule": "ours"}).merge.rule == "ours"


@pytest.mark.parametrize("key", ["wire.kind", "merge.rule", "inner.optimizer"])
def test_a_name_that_nobody_registered_leads_to_the_option(key):
    with pytest.raises(SpecError, match=f"{key} = 'sign' is not known here.*--plugin"):
        override(RunSpec(), {key: "sign"})


def test_a_run_folder_finds_its_plugin_again(folder):
    assert [p.path for p in plugins.load_of(folder)] == [folder.local()["plugins"][0]["path"]]
    assert "ours" in RULES.names()


def test_a_folder_from_elsewhere_cannot_make_its_code_run(folder, tmp_path):
    shutil.rmtree(tmp_path / "cache")  # as on a machine where nobody has named the file
    with pytest.raises(PluginError, match=r"never named on this machine.*--plugin"):
        plugins.load_of(folder)
    assert "ours" not in RULES.names()


def test_a_changed_plugin_is_refused_until_it_is_named(folder, file):
    file.write_text(RULE + "# new\n")
    with pytest.raises(PluginError, match="another version"):
        plugins.load_of(folder)
    now = plugins.load_of(folder, [file])
    assert len(now) == 1
    assert folder.local()["plugins"][0]["blake3"] == now[0].blake3


def test_a_plugin_that_moved_is_named_where_it_is_now(folder, file, tmp_path):
    moved = tmp_path / "elsewhere" / file.name
    moved.parent.mkdir()
    file.rename(moved)
    with pytest.raises(PluginError, match=r"not there any more.*--plugin FILE"):
        plugins.load_of(folder)
    plugins.load_of(folder, [moved])
    assert [p["path"] for p in folder.local()["plugins"]] == [str(moved)]


def test_other_facts_of_the_machine_stay(folder):
    folder.note({"base": "/data"})
    assert set(json.loads((folder.path / "local.json").read_text())) == {"plugins", "base"}


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("x = 1\ny = nothing\n", "line 2: NameError: name 'nothing'"),
        ("x = 1\n\ndef f(:\n", "line 3: SyntaxError"),
        ("import no_such_module\n", "line 1: ModuleNotFoundError"),
        ("def f():\n    raise SystemExit(3)\n\nf()\n", "line 2: SystemExit: 3"),
    ],
)
def test_a_plugin_that_fails_says_where(tmp_path, code, words):
    path = tmp_path / "broken.py"
    path.write_text(code)
    with pytest.raises(PluginError, match=words) as caught:
        plugins.load([path])
    assert str(path) in str(caught.value)


def test_a_file_that_is_not_there():
    with pytest.raises(PluginError, match=r"nowhere\.py: No such file"):
        plugins.load(["nowhere.py"])


def test_a_file_that_changes_under_a_process_is_not_loaded_twice(file):
    plugins.load([file])
    file.write_text(RULE + "# new\n")
    with pytest.raises(PluginError, match="start a new process"):
        plugins.load([file])


def test_the_members_of_a_specification_are_read_without_its_plugins():
    assert members('[wire]\nkind = "theirs"\n[members]\njoin = "open"', "here").join == "open"
    with pytest.raises(SpecError, match=r"here: members: .*'shut'"):
        members('[members]\njoin = "shut"', "here")
