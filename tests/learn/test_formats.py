"""The same documents in give the same documents out, whatever they are packed in."""

import gzip
import json
import os

import pyarrow as pa
import pytest
from fixtures.documents import PACKED, TEXTS, left_out, lines, parquet, read, rows, write

from duckweed.learn.data.reading import DataError

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
