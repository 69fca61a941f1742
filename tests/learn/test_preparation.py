"""Documents become a data set: the same one however they came, and one line tells what it holds."""

import gzip
import json

from fixtures.documents import lines, linked, made, parquet, write

from duckweed.learn.data.preparation import prepare
from duckweed.run.sections import DataSpec


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
