"""Text in other encodings than UTF-8: read where it is told or marked, else left out with the option that reads it."""

import io

import msgspec
import pyarrow as pa
import pytest
from fixtures.documents import PACKED, TEXTS, left_out, lines, parquet, read, write
from hypothesis import given
from hypothesis import strategies as st

from duckweed.learn.data import encoding as encodings
from duckweed.learn.data.reading import DataError
from duckweed.run.sections import DataSpec

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
