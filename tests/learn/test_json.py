"""JSON that is none, or holds no texts, and JSON of any length: read value by value."""

import io
import json
import tracemalloc

import pytest
from fixtures.documents import TEXTS, left_out, lines, refused, rows, write
from hypothesis import given
from hypothesis import strategies as st

from duckweed.learn.data import formats
from duckweed.learn.data.corpus import documents
from duckweed.run.sections import DataSpec

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
    refused(tmp_path, name, content, message)


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
