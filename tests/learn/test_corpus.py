import gzip
import io
import json
import sys
import types

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from fixtures.documents import PACKED, read, refused, write
from hypothesis import given
from hypothesis import strategies as st

from duckweed.learn.data import corpus, formats
from duckweed.learn.data.corpus import documents
from duckweed.learn.data.files import files
from duckweed.learn.data.reading import DataError, Reading
from duckweed.run.sections import DataSpec


@pytest.mark.parametrize("suffix", PACKED)
def test_reads_text_json_lines_and_parquet_plain_or_compressed(tmp_path, suffix):
    texts = ["first\r\ntext", "zweiter äöü 漢字 🎉"]
    rows = "\n".join(json.dumps({"id": i, "text": t}) for i, t in enumerate(texts)) + "\n\n"
    table = pa.table({"id": [0, 1, 2], "text": [texts[0], None, texts[1]]})
    pq.write_table(table, tmp_path / "plain.parquet")
    for name, content in (
        ("a.txt", texts[0].encode()),
        ("a.jsonl", rows.encode()),
        ("a.parquet", (tmp_path / "plain.parquet").read_bytes()),
    ):
        write(tmp_path / (name + suffix), PACKED[suffix](content))
    assert read(tmp_path, "a.txt" + suffix) == texts[:1]
    assert read(tmp_path, "a.jsonl" + suffix) == texts
    assert read(tmp_path, "a.parquet" + suffix) == texts


def test_several_compressed_frames_are_one_file(tmp_path):
    for suffix in (".gz", ".zst"):
        write(tmp_path / f"a.txt{suffix}", PACKED[suffix](b"one ") + PACKED[suffix](b"two"))
        assert read(tmp_path, f"a.txt{suffix}") == ["one two"]


def test_a_folder_is_read_in_sorted_order_without_hidden_files(tmp_path):
    for name in ("b.txt", "a/z.md", "a/b/c.py", "a.txt", ".hidden", ".git/config"):
        write(tmp_path / "data" / name, name)
    assert read(tmp_path, "data") == ["a.txt", "a/b/c.py", "a/z.md", "b.txt"]
    assert read(tmp_path, str(tmp_path / "data")) == read(tmp_path, "data")


def test_globs_and_lists_of_paths(tmp_path):
    for name in ("d/2.txt", "d/1.txt", "d/x.md", "d/e/3.txt", "book"):
        write(tmp_path / name, name)
    assert read(tmp_path, "d/*.txt") == ["d/1.txt", "d/2.txt"]
    assert read(tmp_path, "d/**/*.txt") == ["d/1.txt", "d/2.txt", "d/e/3.txt"]
    assert sorted(read(tmp_path, "d/**")) == ["d/1.txt", "d/2.txt", "d/e/3.txt", "d/x.md"]
    assert read(tmp_path, ("book", "d/e")) == ["book", "d/e/3.txt"]


def test_the_standard_library_is_there_without_its_tests():
    paths = files("stdlib", None)
    parts = {part for path in paths for part in path.parts}
    assert {"argparse.py", "asyncio", "json"} <= parts
    assert not {"test", "tests", "site-packages", "__pycache__"} & parts
    assert all(path.suffix == ".py" for path in paths)
    assert 300 < len(paths) < 2000


def test_what_is_no_text_is_left_out_and_counted(tmp_path):
    write(tmp_path / "d/a.txt", "good")
    write(tmp_path / "d/b.png", b"\x89PNG\0\xff")
    write(tmp_path / "d/c.txt", "Schöner".encode("latin-1"))
    write(tmp_path / "d/d.txt", b"")
    write(tmp_path / "d/e.jsonl", r'{"text": "half \ud800"}' + "\n" + r'{"text": "nul \u0000"}')
    write(tmp_path / "d/f.txt", b"\xef\xbb\xbfwith a mark")
    reading = Reading()
    assert list(documents(DataSpec("d"), tmp_path, reading)) == ["good", "with a mark"]
    assert reading.left_out == {"binary": 2, "not UTF-8": 2, "empty": 1}
    assert (reading.files, reading.documents, reading.bytes) == (5, 2, 15)


@given(
    st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0\ufeff"), min_size=1)
)
def test_a_long_file_is_cut_at_lines_or_characters_and_loses_nothing(text):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(formats, "PIECE", 16)
        pieces = [piece for _, piece in formats._pieces(io.BytesIO(text.encode()))]
    assert b"".join(pieces).decode() == text
    assert all(0 < len(piece) <= 16 and piece.decode() for piece in pieces)


def test_a_long_file_with_a_mark_is_cut_at_a_character(tmp_path, monkeypatch):
    monkeypatch.setattr(formats, "PIECE", 16)
    write(tmp_path / "a.txt", "\ufeff" + "ä" * 50)
    assert "".join(read(tmp_path, "a.txt")) == "ä" * 50


def test_the_limit_stops_the_stream_at_a_character(tmp_path):
    write(tmp_path / "d/a", "ää")
    write(tmp_path / "d/b", "öö")
    assert read(tmp_path, "d", limit=7) == ["ää", "ö"]
    assert read(tmp_path, "d", limit=4) == ["ää"]
    assert read(tmp_path, ("d/a", "d/b", "missing"), limit=6) == ["ää", "ö"]
    assert read(tmp_path, "d", limit=100) == ["ää", "öö"]


def test_the_field_can_be_named(tmp_path):
    write(tmp_path / "a.jsonl", '{"text": 1, "body": "yes"}')
    assert read(tmp_path, "a.jsonl", field="body") == ["yes"]


BAD_FILES = [
    ("a.jsonl", '{"text": "x"}\n{"text": ', r"a\.jsonl:2: not a line of JSON"),
    ("a.jsonl", b'{"text": "\xff"}', r"no text in .*1 not UTF-8 \(a\.jsonl:1: .*--encoding"),
    ("a.jsonl", '["text"]', r"a\.jsonl:1: expected an object"),
    ("a.jsonl", '{"body": "x", "id": 1}', r"no field 'text', only body, id"),
    ("a.jsonl", '{"text": 5}', r"'text' holds int; expected text"),
    ("a.parquet", "no parquet", r"a\.parquet is damaged or not Parquet"),
    ("a.txt.gz", "no gzip", r"a\.txt\.gz is damaged or not gzip"),
    ("a.txt.gz", gzip.compress(b"x" * 10_000, mtime=0)[:-9], r"a\.txt\.gz is damaged or not gzip"),
    ("a.txt.zst", "no zstd", r"a\.txt\.zst is damaged or not zstd"),
    ("a.txt.zst", zstandard.compress(bytes(range(256)) * 99)[:-9], r"a\.txt\.zst is damaged"),
    ("a.jsonl.zst", zstandard.compress(b'{"text": "x"}\n' * 99)[:-3], r"a\.jsonl\.zst is damaged"),
    ("a.parquet.gz", "no gzip", r"a\.parquet\.gz is damaged"),
    ("a.txt", "", r"no text in .*1 empty"),
    ("a.txt", b"\0\1\2", r"no text in .*1 binary.*unpack"),
    ("a.txt", b"caf\xe9", r"no text in .*1 not UTF-8.*--encoding"),
    ("a.jsonl", "\n\n", r"no text in .*1 empty \(a\.jsonl\)"),
]


@pytest.mark.parametrize(("name", "content", "message"), BAD_FILES)
def test_a_bad_file_is_named_with_what_is_wrong(tmp_path, name, content, message):
    refused(tmp_path, name, content, message)


def test_an_unknown_column_names_those_there_are(tmp_path):
    pq.write_table(pa.table({"body": ["x"], "n": [1]}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match="no field 'text', only body, n"):
        read(tmp_path, "a.parquet")
    with pytest.raises(DataError, match="'n' holds int64; expected text"):
        read(tmp_path, "a.parquet", field="n")


@pytest.mark.parametrize("path", ["missing.txt", "missing/*.txt", "hollow"])
def test_a_path_that_matches_nothing(tmp_path, path):
    (tmp_path / "hollow").mkdir()
    with pytest.raises(DataError, match=r"matches no file|folder without files"):
        read(tmp_path, path)


def hub(rows):
    """A stand-in for the package `datasets`: the network is not part of these tests."""
    module = types.ModuleType("datasets")
    module.asked = []

    def load_dataset(*arguments, **keywords):
        module.asked.append((arguments, keywords))
        if isinstance(rows, Exception):
            raise rows
        return iter(rows)

    module.load_dataset = load_dataset
    return module


def test_a_hub_stream_stops_at_its_limit(tmp_path, monkeypatch):
    def endless():
        while True:
            yield {"text": "ten bytes."}

    module = hub(endless())
    monkeypatch.setitem(sys.modules, "datasets", module)
    assert len(read(tmp_path, "hf:someone/some:en", limit=1000)) == 100
    assert module.asked == [(("someone/some", "en"), {"split": "train", "streaming": True})]
    monkeypatch.setattr(corpus, "HF_LIMIT", 50)
    assert len(read(tmp_path, "hf:someone/some")) == 5


def test_hub_errors_say_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match=r"pip install duckweed\[datasets\]"):
        read(tmp_path, "hf:some")
    monkeypatch.setitem(sys.modules, "datasets", hub([{"body": "x"}]))
    with pytest.raises(DataError, match="no field 'text', only body"):
        read(tmp_path, "hf:some")
    monkeypatch.setitem(sys.modules, "datasets", hub(ConnectionError("no route")))
    with pytest.raises(DataError, match=r"could not be streamed .*no route.*network"):
        read(tmp_path, "hf:some")


@pytest.mark.parametrize(
    "settings",
    [{"path": ""}, {"path": []}, {"held_out": 0.0}, {"held_out": 1.5}, {"limit": 0}, {"fild": "x"}],
)
def test_a_section_that_makes_no_sense_is_refused(settings):
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(settings, DataSpec)


def test_a_section_from_toml():
    spec = msgspec.convert({"path": ["a", "b"], "limit": 5}, DataSpec)
    assert spec == DataSpec(path=("a", "b"), limit=5)
    with pytest.raises(ValueError, match=r"held_out = 0; expected a share in \(0, 1\]"):
        DataSpec(held_out=0)
