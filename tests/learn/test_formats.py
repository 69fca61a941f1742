"""The same documents in give the same documents out, whatever they are packed in."""

import contextlib
import ctypes
import gzip
import io
import json
import os
import shutil
import sys
import tracemalloc

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from duckweed.learn.data import encoding as encodings
from duckweed.learn.data import formats
from duckweed.learn.data.corpus import documents
from duckweed.learn.data.dataset import Manifest
from duckweed.learn.data.preparation import prepare
from duckweed.learn.data.reading import DataError, Reading
from duckweed.run.sections import DataSpec

TEXTS = [
    "The mill stood by the water.\n",
    "zweite Zeile äöü ß\r\nmit CRLF\r\n",
    '漢字 🎉 "quoted" \\ back\tslash\n',
    "[not] {an} array, null\n",
    "\ufeffa mark inside \ufeff is text",
    " ",
]
PACKED = {"": bytes, ".gz": gzip.compress, ".zst": zstandard.compress}


def read(base, path, reading=None, **settings):
    return list(documents(DataSpec(path=path, **settings), base, reading))


def left_out(base, path, **settings):
    reading = Reading()
    return read(base, path, reading, **settings), dict(reading.left_out), reading.examples


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def rows(texts):
    return [{"id": i, "text": text, "more": {"of": [i]}} for i, text in enumerate(texts)]


def lines(texts):
    return "\n".join(json.dumps(row, ensure_ascii=False) for row in rows(texts))


def parquet(texts, kind=None, **settings):
    values = texts
    if kind is not None and ("binary" in str(kind)):
        values = [text.encode() if isinstance(text, str) else text for text in texts]
    column = pa.array(values) if kind is None else pa.array(values, kind)
    file = io.BytesIO()
    pq.write_table(pa.table({"id": list(range(len(texts))), "text": column}), file, **settings)
    return file.getvalue()


JSON = {
    "lines.jsonl": lines,
    "lines.ndjson": lines,
    "lines.jsonlines": lines,
    "LINES.JSONL": lines,
    "lines.json": lines,
    "crlf.jsonl": lambda texts: lines(texts).replace("\n", "\r\n\r\n") + "\r\n",
    "escaped.jsonl": lambda texts: "\n".join(map(json.dumps, rows(texts))) + "\n",
    "strings.jsonl": lambda texts: "\n".join(map(json.dumps, texts)),
    "array.json": lambda texts: json.dumps(rows(texts)),
    "indented.json": lambda texts: json.dumps(rows(texts), indent=2, ensure_ascii=False),
    "strings.json": lambda texts: json.dumps(texts),
    "one-by-one.json": lambda texts: "".join(json.dumps(row, indent=1) for row in rows(texts)),
    "marked.jsonl": lambda texts: "\ufeff" + lines(texts).replace("\n", "\n\ufeff"),
}


@pytest.mark.parametrize("packed", PACKED)
@pytest.mark.parametrize("name", JSON)
def test_json_of_every_kind_holds_the_same_documents(tmp_path, name, packed):
    write(tmp_path / (name + packed), PACKED[packed](JSON[name](TEXTS).encode()))
    assert read(tmp_path, name + packed) == TEXTS


@pytest.mark.parametrize("name", JSON)
@pytest.mark.parametrize("wide", ["utf-8-sig", "utf-16", "utf-16-be", "utf-32", "utf-32-be"])
def test_json_with_a_byte_order_mark_is_read_by_itself(tmp_path, name, wide):
    text = JSON[name](TEXTS)
    mark = "" if wide in ("utf-8-sig", "utf-16", "utf-32") else "\ufeff"
    write(tmp_path / name, (mark + text.removeprefix("\ufeff")).encode(wide))
    assert read(tmp_path, name) == TEXTS


KINDS = [
    pa.string(), pa.large_string(), pa.string_view(), pa.binary(), pa.large_binary(),
    pa.binary_view(), pa.dictionary(pa.int32(), pa.string()),
]  # fmt: skip


@pytest.mark.parametrize("compression", ["none", "snappy", "gzip", "zstd", "brotli", "lz4"])
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_parquet_of_every_kind_of_text_and_compression_holds_the_same_documents(
    tmp_path, kind, compression
):
    write(tmp_path / "a.parquet", parquet(TEXTS, kind, compression=compression, row_group_size=2))
    assert read(tmp_path, "a.parquet") == TEXTS


@pytest.mark.parametrize("packed", [".gz", ".zst"])
def test_parquet_can_be_packed_again(tmp_path, packed):
    write(tmp_path / ("a.parquet" + packed), PACKED[packed](parquet(TEXTS)))
    assert read(tmp_path, "a.parquet" + packed) == TEXTS


SPOKEN = {
    "utf-8": "".join(TEXTS),
    "utf-16-le": "".join(TEXTS[:4]),
    "utf-16-be": "".join(TEXTS[:4]),
    "utf-16": "".join(TEXTS[:4]),
    "utf-32-le": "".join(TEXTS[:4]),
    "cp1252": "Die Mühle „am Wasser“ – und fünf Enten.\r\n" * 40,
    "latin-1": "Die Mühle am Wasser, zehn Schöße.\n" * 40,
    "koi8-r": "Все счастливые семьи похожи друг на друга.\n" * 40,
    "shift_jis": "吾輩は猫である。ニャーニャーと泣いていた事だけは記憶している。\n" * 40,
    "gb18030": "学而时习之，不亦说乎？有朋自远方来，不亦乐乎？\n" * 40,
    "big5": "學而時習之，不亦說乎？\n" * 40,
    "euc-kr": "모든 국민은 법 앞에 평등하다.\n" * 40,
    "cp1250": "Příliš žluťoučký kůň úpěl ďábelské ódy.\n" * 40,
}


@pytest.mark.parametrize("packed", PACKED)
@pytest.mark.parametrize("name", SPOKEN)
def test_text_in_a_named_encoding_is_the_text(tmp_path, monkeypatch, name, packed):
    text = SPOKEN[name]
    data = text.encode("utf-16-le" if name == "utf-16" else name)
    write(tmp_path / ("a.txt" + packed), PACKED[packed](data))
    write(tmp_path / ("b.jsonl" + packed), PACKED[packed](lines([text]).encode(name)))
    write(tmp_path / "c.parquet", parquet([data], pa.binary()))
    for small in (1 << 20, 7):  # characters are cut wherever a piece of the file ends
        monkeypatch.setattr(encodings, "PIECE", small)
        assert read(tmp_path, "a.txt" + packed, encoding=name) == [text.removeprefix("\ufeff")]
        assert read(tmp_path, "b.jsonl" + packed, encoding=name) == [text]
    assert read(tmp_path, "c.parquet", encoding=name) == [text]


@pytest.mark.parametrize("name", ["utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("told", ["utf-8", "cp1252", "utf-16", "shift_jis"])
def test_a_byte_order_mark_is_believed_more_than_the_option(tmp_path, name, told):
    write(tmp_path / "a.txt", "Mühle 漢字 🎉\r\n".encode(name))
    assert read(tmp_path, "a.txt", encoding=told) == ["Mühle 漢字 🎉\r\n"]


@given(st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), min_size=1))
def test_a_mark_of_any_kind_gives_the_same_bytes(text):
    for mark, name in encodings.MARKS:
        stream = encodings.as_utf8(io.BytesIO(mark + text.encode(name)), "utf-8")
        assert stream.read() == text.encode()


@pytest.mark.parametrize("name", ["cp1252", "koi8-r", "cp932", "gb18030", "big5", "cp1250"])
def test_text_in_another_encoding_is_left_out_with_the_option_that_reads_it(tmp_path, name):
    text = SPOKEN["shift_jis" if name == "cp932" else name]
    write(tmp_path / "d/a.txt", text.encode(name))
    write(tmp_path / "d/b.txt", "good")
    texts, counts, examples = left_out(tmp_path, "d")
    assert (texts, counts) == (["good"], {"not UTF-8": 1})
    assert examples["not UTF-8"].endswith(f"if so, read it with --encoding {name}")
    assert read(tmp_path, "d/a.txt", encoding=name) == [text]


@pytest.mark.parametrize("name", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
def test_wide_text_without_a_mark_is_known_by_its_zeros(tmp_path, name):
    write(tmp_path / "a.txt", ("The mill stood by the water.\n" * 20).encode(name))
    with pytest.raises(
        DataError, match=f"looks like {name}; if so, read it with --encoding {name}"
    ):
        read(tmp_path, "a.txt")


def test_a_picture_is_not_taken_for_text(tmp_path):
    write(tmp_path / "a.png", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + bytes(range(256)) * 8)
    with pytest.raises(DataError, match=r"1 binary \(a\.png\)"):
        read(tmp_path, "a.png")


def test_one_bad_byte_in_utf8_is_damage_and_no_other_encoding(tmp_path):
    text = "Schöne grüne Bäume 漢字\n" * 50
    write(tmp_path / "a.txt", text.encode() + b"\xff")
    with pytest.raises(DataError, match=r"a\.txt: some bytes of it are damaged"):
        read(tmp_path, "a.txt")


def test_text_that_is_not_in_the_named_encoding_is_left_out_and_counted(tmp_path):
    write(tmp_path / "d/a.txt", b"\x81\x8d half")
    write(tmp_path / "d/b.txt", "Mühle".encode("cp1252"))
    write(tmp_path / "e/a.txt", "odd".encode("utf-16-le")[:-1])
    write(tmp_path / "e/b.txt", "even".encode("utf-16-le"))
    assert left_out(tmp_path, "d", encoding="cp1252")[:2] == (["Mühle"], {"not cp1252": 1})
    assert left_out(tmp_path, "e", encoding="utf-16-le")[:2] == (["even"], {"not utf-16-le": 1})


@pytest.mark.parametrize("name", ["latin-99", "hex", "rot13", "", "undefined"])
def test_an_encoding_that_does_not_exist_is_refused_with_examples(name):
    with pytest.raises(ValueError, match=r"data: encoding = .*such as utf-8, utf-16-le, cp1252"):
        DataSpec(encoding=name)


def test_a_specification_that_names_no_encoding_reads_and_writes_as_before():
    assert msgspec.to_builtins(DataSpec()) == {
        "path": "stdlib", "field": "text", "tokenizer": "bytes", "held_out": 0.05, "limit": None
    }  # fmt: skip


# One rule for rows without text.

WITHOUT = ["good", None, "", "zero \0 byte", "half \ud800", "end"]


def bad_bytes(texts):
    """A column of strings that holds what no string may: bytes that are no UTF-8."""
    values = [t if t is None else t.encode(errors="surrogatepass") for t in texts]
    plain = pa.array(values, pa.binary())
    return pa.Array.from_buffers(pa.string(), len(plain), plain.buffers())


@pytest.mark.parametrize("name", ["a.jsonl", "a.ndjson", "a.json", "array.json", "a.parquet"])
def test_rows_without_text_are_left_out_and_counted_alike_in_all_formats(tmp_path, name):
    if name == "a.parquet":
        pq.write_table(pa.table({"text": bad_bytes(WITHOUT)}), tmp_path / name)
    elif name == "array.json":
        write(tmp_path / name, json.dumps(rows(WITHOUT)))
    else:
        write(tmp_path / name, "\n".join(map(json.dumps, rows(WITHOUT))))
    texts, counts, examples = left_out(tmp_path, name)
    assert texts == ["good", "end"]
    assert counts == {"null": 1, "empty": 1, "binary": 1, "not UTF-8": 1}
    assert examples["null"] == name + (":2" if name in ("a.jsonl", "a.ndjson") else ": row 2")


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.parquet"])
def test_a_row_that_is_no_utf8_is_named_and_costs_itself_alone(tmp_path, name):
    cells = [b"he\xffllo" if i == 150 else b"text %d" % i for i in range(301)]
    if name == "a.parquet":
        plain = pa.array(cells, pa.binary())
        text = pa.Array.from_buffers(pa.string(), len(plain), plain.buffers())
        pq.write_table(pa.table({"text": text}), tmp_path / name)
    else:
        write(tmp_path / name, b"\n".join(b'{"text": "%s"}' % cell for cell in cells))
    texts, counts, examples = left_out(tmp_path, name)
    assert texts == [f"text {i}" for i in range(301) if i != 150]
    assert counts == {"not UTF-8": 1}
    place = ":151" if name == "a.jsonl" else ": row 151"
    assert examples["not UTF-8"].startswith(f"{name}{place}: ")
    assert "he\xffllo" in read(tmp_path, name, encoding="latin-1")


def test_a_column_of_nulls_alone_has_no_text(tmp_path):
    pq.write_table(pa.table({"text": pa.nulls(3)}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"no text in a\.parquet \(3 null"):
        read(tmp_path, "a.parquet")


@pytest.mark.parametrize(
    "name",
    ["a.txt", "a.jsonl", "a.json", "a.parquet", "a.txt.gz", "a.jsonl.zst", "a.parquet.gz"],
)
def test_a_file_of_no_bytes_is_empty_in_every_format(tmp_path, name):
    write(tmp_path / "d" / name, b"")
    write(tmp_path / "d/good.txt", "good")
    assert left_out(tmp_path, "d") == (["good"], {"empty": 1}, {"empty": f"d/{name}"})


@pytest.mark.parametrize(
    ("name", "content"), [("a.txt", ""), ("a.jsonl", " \n"), ("a.json", "[]"), ("a.json", "\n")]
)
def test_a_file_without_rows_is_empty_in_every_format(tmp_path, name, content):
    write(tmp_path / "d" / (name + ".gz"), gzip.compress(content.encode()))
    write(tmp_path / "d" / ("z" + name), "\ufeff" + content)
    write(tmp_path / "d/good.txt", "good")
    assert left_out(tmp_path, "d")[:2] == (["good"], {"empty": 2})


# Fields.


def test_a_field_inside_of_another_is_named_with_a_dot(tmp_path):
    inner = [{"doc": {"text": "one", "n": 1}}, {"doc": None}, {"doc": {"text": "two", "n": 2}}]
    write(tmp_path / "a.jsonl", "\n".join(map(json.dumps, inner)))
    pq.write_table(pa.Table.from_pylist(inner), tmp_path / "a.parquet")
    for name in ("a.jsonl", "a.parquet"):
        texts, counts, _ = left_out(tmp_path, name, field="doc.text")
        assert (texts, counts) == (["one", "two"], {"null": 1})
    with pytest.raises(
        DataError, match=r"no field 'text', only doc\.text, doc\.n; .*--set data\.f"
    ):
        read(tmp_path, "a.parquet")


def test_a_field_whose_name_has_a_dot_comes_before_one_inside_of_another(tmp_path):
    both = [{"a": {"b": "inside"}, "a.b": "outside"}]
    write(tmp_path / "a.jsonl", json.dumps(both[0]))
    pq.write_table(pa.Table.from_pylist(both), tmp_path / "a.parquet")
    for name in ("a.jsonl", "a.parquet"):
        assert read(tmp_path, name, field="a.b") == ["outside"]


@pytest.mark.parametrize("kind", [pa.list_(pa.string()), pa.int64(), pa.bool_()], ids=str)
def test_a_column_of_something_else_is_refused_with_what_it_holds(tmp_path, kind):
    pq.write_table(pa.table({"text": pa.nulls(1, kind)}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"a\.parquet: 'text' holds .*; expected text"):
        read(tmp_path, "a.parquet")


# JSON that is none.

DEEP = '{"text": "x", "more": ' + "[" * 100_000 + "]" * 100_000 + "}"
BROKEN = [
    ("a.jsonl", "\n".join([*lines(TEXTS).splitlines(), DEEP]), r"a\.jsonl:7: nested too deeply"),
    ("a.json", "\n".join([*lines(TEXTS).splitlines(), DEEP]), r"a\.json: row 7: nested too deeply"),
    ("a.json", f"[{DEEP}]", r"a\.json: row 1: nested too deeply to be read; take this row out"),
    ("a.json", json.dumps(rows(TEXTS))[:-9], r"a\.json: row 6: not JSON"),
    ("a.json", json.dumps(rows(TEXTS))[:-1], r"a\.json: row 7: not JSON \(the array is cut off\)"),
    ("a.json", json.dumps(TEXTS) + "]", r"a\.json: row 7: not JSON \(something follows the end"),
    ("a.json", '["one" "two"]', r"a\.json: row 2: not JSON \(a comma is missing\)"),
    ("a.json", '["one", 2]', r"a\.json: row 2: expected an object with a field 'text'"),
    ("a.json", '["one",]', r"a\.json: row 2: not JSON"),
    ("a.json", '[{"text": "x"}, {"body": "x"}]', r"a\.json: row 2: .*no field 'text', only body"),
    ("a.json", '{"body": "x", "id": 1}', r"1 without a field 'text' \(.* has only body, id"),
    ("a.json", "// settings\n{}", r"no text in a\.json \(1 not JSON \(a\.json: "),
    ("a.jsonl", '{"text": ' + "9" * 5000 + "}", r"a\.jsonl:1: not a line of JSON \(Exceeds"),
]


@pytest.mark.parametrize(("name", "content", "message"), BROKEN)
def test_json_that_cannot_be_read_is_named_with_its_row(tmp_path, name, content, message):
    write(tmp_path / name, content)
    with pytest.raises(DataError, match=message):
        read(tmp_path, name)


def test_settings_among_the_texts_are_left_out_and_counted(tmp_path):
    write(tmp_path / "d/package.json", '{"name": "x", "version": 1}')
    write(tmp_path / "d/tsconfig.json", '{ // comment\n "compilerOptions": {} }')
    write(tmp_path / "d/numbers.json", "[1, 2, 3]")
    write(tmp_path / "d/code.ts", "let x = 1")
    texts, counts, examples = left_out(tmp_path, "d")
    assert texts == ["let x = 1"]
    assert counts == {"without a field 'text'": 2, "not JSON": 1}
    assert "d/tsconfig.json" in examples["not JSON"]


def test_an_array_is_read_in_bounded_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(formats, "PIECE", 1 << 16)
    with (tmp_path / "a.json").open("w") as file:
        file.write("[")
        for i in range(20_000):
            file.write(("," if i else "") + json.dumps({"text": f"{i} " * 100}))
        file.write("]")
    tracemalloc.start()
    count = sum(1 for _ in documents(DataSpec("a.json"), tmp_path))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == 20_000
    assert peak < (tmp_path / "a.json").stat().st_size / 2


@given(st.lists(st.text(min_size=1).filter(lambda t: "\0" not in t), min_size=1), st.integers(1, 9))
def test_values_of_json_are_whole_wherever_a_piece_ends(texts, size):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(formats, "PIECE", size)
        for data in (json.dumps(texts), json.dumps(texts, ensure_ascii=False, indent=1)):
            values = formats._JsonValues(io.BytesIO(data.encode(errors="surrogateescape")))
            assert list(values) == texts
        separate = " ".join(str(len(text)) for text in texts)
        assert list(formats._JsonValues(io.BytesIO(separate.encode()))) == [len(t) for t in texts]


# Folders, links and globs.


def linked(path, target):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(target)


@pytest.fixture
def folder(tmp_path):
    for name in ("a.txt", "b/c.txt", "b/d.jsonl"):
        content = lines([name]) if name.endswith("l") else name
        write(tmp_path / "data" / name, content)
    return tmp_path


ALL = ["a.txt", "b/c.txt", "b/d.jsonl"]


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


@contextlib.contextmanager
def as_nobody():
    """File access of a user that owns nothing, also for a test that runs as root (Linux)."""
    if os.geteuid():
        yield
        return
    libc = ctypes.CDLL(None)
    libc.setfsuid(65534)
    try:
        yield
    finally:
        libc.setfsuid(0)


@pytest.fixture
def closed(folder):
    if not sys.platform.startswith("linux"):
        pytest.skip("setfsuid is Linux's")
    for place in (folder, *folder.parents):
        if place.name.startswith(("pytest-", "popen-")):
            place.chmod(0o755)
    folder.chmod(0o755)
    # Python's own files may be closed to others too: what is loaded late is loaded now.
    write(folder / "warm/a.txt", "words " * 500)
    made(folder, "warm", folder / "warm-cache")
    with pytest.raises(DataError):
        read(folder, "nothing/*.parquet")
    shutil.rmtree(folder / "warm")
    yield folder
    for place in folder.rglob("*"):
        place.chmod(0o755)


@pytest.mark.parametrize("path", ["data", "data/*"])
def test_what_may_not_be_read_is_left_out_and_counted(closed, path):
    (closed / "data/b").chmod(0)
    write(closed / "data/z.txt", "z").chmod(0)
    with as_nobody():
        texts, counts, examples = left_out(closed, path)
    assert (texts, counts) == (["a.txt"], {"not readable": 2})
    assert examples["not readable"] == "data/b"


def test_what_may_not_be_read_and_is_all_there_is_ends_with_what_to_do(closed):
    (closed / "data/a.txt").chmod(0)
    (closed / "data/b").chmod(0)
    with as_nobody():
        with pytest.raises(DataError, match=r"data/a\.txt cannot be read: .*permissions"):
            read(closed, "data/a.txt")
        with pytest.raises(DataError, match=r"'data/b' has nothing .*read.*permissions"):
            read(closed, "data/b")


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


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_an_archive_that_is_cut_off_anywhere_is_damaged(tmp_path, suffix):
    whole = PACKED[suffix](os.urandom(500).hex().encode())
    for size in (1, 5, 12, len(whole) // 2, len(whole) - 1):
        write(tmp_path / f"a.txt{suffix}", whole[:size])
        with pytest.raises(DataError, match=rf"a\.txt\{suffix} is damaged or not"):
            read(tmp_path, f"a.txt{suffix}")
    twice = whole + whole
    write(tmp_path / f"a.txt{suffix}", twice[:-3])
    with pytest.raises(DataError, match="is damaged or not"):
        read(tmp_path, f"a.txt{suffix}")


# The whole way.


def made(base, path, cache, **settings) -> Manifest:
    return prepare(DataSpec(path, **settings), base, cache).manifest


def test_the_same_documents_give_the_same_data_set_whatever_they_are_packed_in(tmp_path):
    texts = [f"document {i}, Mühle {'word ' * (i % 7)}" for i in range(200)]
    for i, text in enumerate(texts):
        write(tmp_path / f"texts/{i:03}.txt", text)
        write(tmp_path / f"packed/{i:03}.txt.gz", gzip.compress(text.encode()))
        write(tmp_path / f"wide/{i:03}.txt", text.encode("utf-16"))
        write(tmp_path / f"western/{i:03}.txt", text.encode("cp1252"))
        linked(tmp_path / f"links/{i:03}.txt", tmp_path / f"texts/{i:03}.txt")
    halves = texts[:77], texts[77:]
    write(tmp_path / "mixed/1.jsonl", lines(halves[0]))
    write(tmp_path / "mixed/2.parquet", parquet(halves[1]))
    write(tmp_path / "one.json", json.dumps(texts))
    cache = tmp_path / "cache"
    first = made(tmp_path, "texts", cache)
    for path in ("packed", "wide", "links", "mixed", "one.json", "texts/*.txt", "lin*"):
        other = made(tmp_path, path, cache)
        assert (other.hash, other.tokens_hash) == (first.hash, first.tokens_hash), path
    other = made(tmp_path, "western", cache, encoding="cp1252")
    assert (other.hash, other.tokens_hash) == (first.hash, first.tokens_hash)


def test_one_line_tells_what_was_read_and_what_was_left_out_and_why(tmp_path):
    text = "many words of text " * 100
    write(tmp_path / "d/a.txt", text)
    write(tmp_path / "d/b.jsonl", f'{{"text": "{text}"}}\n{{"text": null}}')
    write(tmp_path / "d/c.txt", "Die Mühle „am Wasser“\n".encode("cp1252") * 9)
    write(tmp_path / "d/d.txt", "")
    told = made(tmp_path, "d", tmp_path / "cache").told()
    assert told == (
        "read 3 files, 2 documents, 3,800 bytes of text; left out 1 empty (d/d.txt), 1 not UTF-8 "
        "(d/c.txt: looks like cp1252 (or cp1250); if so, read it with --encoding cp1252), 1 null (d/b.jsonl:2)"
    )
    assert "\n" not in told
    told = made(tmp_path, "d/a.txt", tmp_path / "cache", limit=1500).told()
    assert told == (
        "read 1 file, 1 document, 1,500 bytes of text; stopped at the limit of bytes; "
        "left out nothing"
    )


def test_a_data_set_that_an_older_version_prepared_opens(tmp_path):
    write(tmp_path / "a.txt", "words " * 500)
    found = prepare(DataSpec("a.txt"), tmp_path, tmp_path / "cache")
    facts = json.loads((found.folder / "manifest.json").read_text())
    for key in ("files", "examples", "limited"):
        del facts[key]
    (found.folder / "manifest.json").write_text(json.dumps(facts))
    assert type(found).open(found.folder).manifest.hash == found.manifest.hash


def test_a_file_that_may_be_read_again_is_read_again(closed, monkeypatch):
    cache = closed / "cache"
    cache.mkdir()
    cache.chmod(0o777)
    write(closed / "data/z.txt", "z" * 3000).chmod(0)
    with as_nobody(), monkeypatch.context() as patch:
        # os.access asks for the user that the process was started by, whom as_nobody() leaves.
        patch.setattr(os, "access", lambda path, mode: path.name != "z.txt")
        first = made(closed, "data", cache)
    (closed / "data/z.txt").chmod(0o644)
    assert made(closed, "data", cache).documents == first.documents + 1
    shutil.rmtree(cache)
