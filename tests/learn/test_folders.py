"""What a path stands for: folders, globs, links, names of any kind, and what is no file."""

import os

import pytest
from fixtures.documents import (
    ALL,
    TEXTS,
    left_out,
    lines,
    linked,
    parquet,
    read,
    three_files,
    write,
)

from duckweed.learn.data.corpus import documents
from duckweed.learn.data.preparation import prepare
from duckweed.learn.data.reading import DataError
from duckweed.run.sections import DataSpec


@pytest.fixture
def folder(tmp_path):
    return three_files(tmp_path)


def test_linked_folders_and_files_are_followed_by_folders_and_globs_alike(folder):
    linked(folder / "links/away", folder / "data/b")
    linked(folder / "links/file.txt", folder / "data/a.txt")
    expected = ["b/c.txt", "b/d.jsonl", "a.txt"]
    for path in ("links", "links/*", "links/**", "links/away", "link?"):
        if path == "links/away":
            assert read(folder, path) == expected[:2]
        else:
            assert read(folder, path) == expected, path


def test_what_two_links_lead_to_is_read_once_under_its_own_name(folder):
    linked(folder / "data/a-first", folder / "data/b")
    linked(folder / "data/a-file.txt", "a.txt")
    for path in ("data", "data/**"):
        texts, counts, _ = left_out(folder, path)
        assert sorted(texts) == ALL
        assert counts["reached twice"] >= 2
    assert read(folder, "data") == ALL


def test_links_in_a_circle_end(folder):
    linked(folder / "data/b/up", "..")
    linked(folder / "data/self", "self")
    linked(folder / "data/b/other", folder / "second")
    linked(folder / "second/back", folder / "data")
    for path in ("data", "data/**", "data/*", "**/*.*"):
        texts, counts, _ = left_out(folder, path)
        assert sorted(texts) == ALL, path
        if path == "**/*.*":
            continue
        assert counts["reached twice"] >= 1
    assert left_out(folder, "data")[1]["broken link"] == 1


def test_a_cache_of_links_to_blobs_is_read_by_the_names_that_say_how(tmp_path):
    """As the Hugging Face hub lays out its downloads."""
    write(tmp_path / "hub/blobs/00ff", parquet(TEXTS))
    linked(tmp_path / "hub/snapshots/1/a.parquet", "../../blobs/00ff")
    assert read(tmp_path, "hub") == TEXTS


def test_what_is_no_file_is_left_out_and_counted(folder):
    os.mkfifo(folder / "data/pipe")
    linked(folder / "data/null", "/dev/null")
    linked(folder / "data/gone.txt", "nowhere")
    write(folder / "data/.hidden", "x")
    write(folder / "data/.git/config", "x")
    texts, counts, examples = left_out(folder, "data")
    assert texts == ALL
    assert counts == {"no file": 2, "broken link": 1, "hidden": 2}
    assert examples["broken link"] == "data/gone.txt"
    texts, counts, _ = left_out(folder, "data/*")
    assert (texts, counts) == (ALL, {"no file": 2, "broken link": 1})


@pytest.mark.parametrize("path", ["/dev/zero", "zero"])
def test_a_device_is_refused(tmp_path, path):
    linked(tmp_path / "zero", "/dev/zero")
    with pytest.raises(DataError, match=f"'{path}' is a device"):
        read(tmp_path, path)


def test_a_link_that_leads_nowhere_is_called_so(tmp_path):
    linked(tmp_path / "gone", "nowhere")
    with pytest.raises(DataError, match="'gone' is a link to something that does not exist"):
        read(tmp_path, "gone")


BRACKETS = ["[data]", "x[/red]y", "[bold]", "a[0-9]", "*?"]


@pytest.mark.parametrize("name", BRACKETS)
def test_brackets_in_the_names_of_folders_are_letters(tmp_path, name):
    base = tmp_path / name
    write(base / "in[a]/1.txt", "one")
    write(base / "in[a]/2.txt", "two")
    for path in ("*/*.txt", "in[a]/*.txt", "in[[]a]/*.txt", "in[a]", "**/?.txt"):
        assert read(base, path) == ["one", "two"], path
        assert read(tmp_path, str(base / path)) == ["one", "two"], path


def test_names_that_are_no_utf8_are_read_and_can_be_printed(tmp_path):
    name = os.fsdecode(b"caf\xe9.txt")
    write(tmp_path / "d" / name, b"\xff\xfe\xfd")
    write(tmp_path / "d/good.txt", "good " * 500)
    made = prepare(DataSpec("d"), tmp_path, tmp_path / "cache")
    assert r"d/caf\udce9.txt" in made.manifest.told().encode().decode()
    write(tmp_path / "d" / name.replace("txt", "jsonl"), "no JSON")
    with pytest.raises(DataError) as error:
        read(tmp_path, "d")
    assert str(error.value).encode()


def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path):
    path = write(tmp_path / "a.jsonl", lines(["text"] * 9))
    found = documents(DataSpec("a.jsonl"), tmp_path)
    next(found)
    with path.open("a") as file:
        file.write("\n" + lines(["more"]))
    with pytest.raises(DataError, match=r"a\.jsonl changed while it was read"):
        list(found)


def test_a_pipe_that_the_shell_made_is_read(tmp_path):
    reader, writer = os.pipe()
    os.write(writer, b"from a command")
    os.close(writer)
    try:
        assert read(tmp_path, f"/dev/fd/{reader}") == ["from a command"]
    finally:
        os.close(reader)
