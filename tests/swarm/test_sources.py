"""What a specification from the network can read on a joiner's machine: nothing, but what the joiner names."""

import os
import stat

import pytest
from fixtures import tiny

from duckweed.learn.data import preparation
from duckweed.learn.data.reading import DataError
from duckweed.run.sections import DataSpec
from duckweed.run.spec import RunSpec, override
from duckweed.swarm.peer.sources import Sources

SECRET = "id_ed25519"


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / SECRET).write_text("-----BEGIN OPENSSH PRIVATE KEY-----")
    (tmp_path / "owner").mkdir()
    (tmp_path / "owner" / "model").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    "path",
    [
        SECRET, f"./{SECRET}", "~/.ssh/id_rsa", "/etc/passwd", "*", "../x", "hf:text", "hf:csv", "hf:./x",
        "hf:/home", "hf:../x/y", "hf:a/..", "file:///etc/passwd", "HF:a/b", "stdlib/../x",
    ],
)  # fmt: skip
def test_no_text_of_the_joiners_is_read_on_the_runs_word(here, path):
    for paths in (path, ("stdlib", path)):
        spec = override(RunSpec(), {"data.path": paths})
        with pytest.raises(DataError, match="--data"):
            Sources().of(spec, here)


@pytest.mark.parametrize("key", ["data.tokenizer", "model.source"])
@pytest.mark.parametrize(
    "name", ["x.json", "./x", "~/x", "/x", "a/b/c", "../x", "a/..", "owner/model", SECRET, ".x"]
)
def test_no_model_and_no_tokenizer_of_the_joiners_either(here, key, name):
    option = "--tokenizer" if key == "data.tokenizer" else "--config"
    with pytest.raises(DataError, match=option):
        Sources().of(override(RunSpec(), {key: name}), here)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"data.path": "hf:owner/text:config"},
        {"data.tokenizer": "bpe:4096"},
        {"data.tokenizer": "owner/other"},
        {"model.source": "owner/other-1.5_b"},
        {"model.source": "gpt2"},
    ],
)
def test_the_hub_presets_and_the_standard_library_may_be_named(here, changes):
    spec = override(RunSpec(), changes)
    assert Sources().of(spec, here) == spec


def test_what_the_joiner_names_itself_is_read(here):
    spec = override(
        RunSpec(), {"data.path": "/theirs", "model.source": "m.json", "data.tokenizer": "t.json"}
    )
    found = Sources(("mine", "too"), "mine.json", "own.json").of(spec, here)
    assert (found.data.paths, found.data.tokenizer) == (("mine", "too"), "own.json")
    assert found.model.source == "mine.json"


def test_more_text_than_the_joiner_gives_room_for_is_refused_before_it_is_fetched(here):
    spec = override(RunSpec(), {"data.path": "hf:owner/text", "data.limit": 10**15})
    with pytest.raises(DataError, match=r"up to .* here; your limit of disk is .*4"):
        Sources().of(spec, here, disk=4e9)
    assert Sources().of(spec, here) == spec


@pytest.mark.skipif(os.name != "posix", reason="modes of files")
def test_prepared_text_is_its_owners_alone(tmp_path):
    (tmp_path / "text.txt").write_text(tiny.text())
    cache = tmp_path / "cache"
    cache.mkdir(mode=0o755)
    before = os.umask(0)
    try:
        preparation.prepare(DataSpec(path="text.txt"), tmp_path, cache)
    finally:
        os.umask(before)
    for folder in (cache, *(x for x in cache.iterdir() if x.is_dir())):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_all_that_the_joiner_has_to_name_is_said_at_once(here):
    spec = override(
        RunSpec(),
        {"data.path": "x.txt", "data.tokenizer": "/x/model", "model.source": "/x/sft-1"},
    )
    with pytest.raises(DataError) as error:
        Sources().of(spec, here)
    for named in ("'x.txt' (--data)", "'/x/model' (--tokenizer)", "'/x/sft-1' (--config)"):
        assert named in str(error.value)
