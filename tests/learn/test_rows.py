"""Rows and their fields: one rule in all formats for rows without text, and for where a row keeps its text."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fixtures.documents import left_out, read, rows, write

from duckweed.learn.data.reading import DataError

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
