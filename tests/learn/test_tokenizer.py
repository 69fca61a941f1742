import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Regex, pre_tokenizers

from duckweed.learn.data import tokenizer as tokenizers
from duckweed.learn.data.corpus import DataError
from duckweed.learn.data.tokenizer import (
    END,
    ByteTokenizer,
    bpe_size,
    byte_alphabet,
    load,
    train_bpe,
)

TEXTS = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"))
SAMPLE = [
    "the cat sat on the mat, the cat",
    "def the_cat(mat):\n    return mat\n",
    "äöü 漢字 🎉",
] * 3
BPE = train_bpe(SAMPLE, 280)


@given(TEXTS)
def test_bytes_are_the_utf8_bytes_and_come_back(text):
    ids = ByteTokenizer().encode([text])[0]
    assert ids.tolist() == list(text.encode())
    assert ByteTokenizer().decode(ids) == text


@given(TEXTS)
def test_bpe_loses_nothing(text):
    assert BPE.decode(BPE.encode([text])[0]) == text


def test_byte_tokenizer_has_256_ids_of_one_byte_and_zero_ends():
    tokenizer = ByteTokenizer()
    assert (tokenizer.size, tokenizer.end, tokenizer.dtype) == (256, 0, np.uint8)
    assert tokenizer.decode([97, 0, 98]) == "ab"
    assert tokenizer.decode([97, 0xC3, 98]) == "a\ufffdb"
    with pytest.raises(ValueError, match=r"outside 0\.\.255"):
        tokenizer.decode([256])


def test_byte_alphabet_is_the_one_of_the_library():
    from tokenizers import pre_tokenizers

    assert sorted(byte_alphabet().values()) == sorted(pre_tokenizers.ByteLevel.alphabet())


def test_bpe_merges_frequent_pairs_and_is_deterministic():
    again = train_bpe(iter(SAMPLE), 280)
    assert again.hash == BPE.hash
    assert BPE.size == 280
    assert BPE.dtype == np.dtype("<u2")
    assert len(BPE.encode([" the cat"])[0]) < 6
    assert train_bpe([t.upper() for t in SAMPLE], 280).hash != BPE.hash


def test_bpe_of_a_tiny_text_has_fewer_ids_than_asked_for():
    assert train_bpe(["aa"], 5000).size == 258  # 256 bytes, the end, one merge


def test_text_that_spells_the_end_is_text():
    for tokenizer in (BPE, ByteTokenizer()):
        ids = tokenizer.encode([f"a{END}b"])[0]
        assert tokenizer.end not in ids
        assert tokenizer.decode(ids) == f"a{END}b"


@pytest.mark.parametrize("made", [ByteTokenizer(), BPE], ids=["bytes", "bpe"])
def test_reads_back_what_it_saved(tmp_path, made):
    made.save(tmp_path / "folder")
    for name in ("folder", "folder/tokenizer.json"):
        found = load(name, base=tmp_path)
        assert type(found) is type(made)
        assert found.hash == made.hash
        assert (found.size, found.end, found.dtype) == (made.size, made.end, made.dtype)
        assert found.encode(SAMPLE)[2].tolist() == made.encode(SAMPLE)[2].tolist()


@pytest.mark.parametrize("made", [ByteTokenizer(), BPE], ids=["bytes", "bpe"])
def test_transformers_loads_what_was_saved_beside_a_model(tmp_path, made):
    import transformers

    made.save(tmp_path)
    transformers.LlamaConfig(vocab_size=made.size).save_pretrained(tmp_path)
    found = transformers.AutoTokenizer.from_pretrained(tmp_path)
    every_byte = "".join(map(chr, range(1, 0x800))) + "漢字🎉\U0010fffd"
    for text in [*SAMPLE, every_byte]:
        ids = made.encode([text])[0].tolist()
        assert found(text)["input_ids"] == ids
        assert found.decode(ids) == text
    assert (len(found), found.eos_token_id) == (made.size, made.end)
    assert found.decode([made.end, *made.encode(["x"])[0]], skip_special_tokens=True) == "x"


def test_every_byte_has_the_same_id_in_transformers(tmp_path):
    from tokenizers import Tokenizer

    ByteTokenizer().save(tmp_path)
    saved = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert saved.encode("".join(map(chr, range(128)))).ids == list(range(128))
    for byte in range(1, 256):
        assert saved.token_to_id(byte_alphabet()[byte]) == byte
        assert saved.decode([byte]) == bytes([byte]).decode(errors="replace")
    assert saved.encode(f"a{END}").ids == [97, 0]  # in a prompt it may be spelt


def test_a_folder_says_what_ends_a_document(tmp_path):
    BPE.save(tmp_path)
    config = {"eos_token": {"content": "the"}, "model_max_length": 77}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    (tmp_path / "chat_template.jinja").write_text("{{ x }}")
    found = load(tmp_path)
    assert found.decode(np.array([found.end])) == "the"
    found.save(tmp_path / "copy")
    kept = json.loads((tmp_path / "copy/tokenizer_config.json").read_text())
    assert (kept["eos_token"], kept["model_max_length"]) == ("the", 77)
    assert (tmp_path / "copy/chat_template.jinja").read_text() == "{{ x }}"


def test_a_bare_file_without_an_end(tmp_path):
    from tokenizers import Tokenizer, models

    Tokenizer(models.BPE(vocab={"a": 0}, merges=[])).save(str(tmp_path / "t.json"))
    with pytest.raises(DataError, match="does not say which token ends a document"):
        load("t.json", tmp_path)
    Tokenizer(models.BPE(vocab={"a": 0, "</s>": 1}, merges=[])).save(str(tmp_path / "t.json"))
    assert load("t.json", tmp_path).end == 1


def test_a_tokenizer_that_is_not_there_or_damaged(tmp_path, monkeypatch):
    import transformers

    with pytest.raises(DataError, match="there is no file or folder"):
        load("missing/tokenizer.json", tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(DataError, match=r"is not a tokenizer\.json"):
        load(tmp_path)

    def unreachable(name, **_):
        raise OSError("no network\nand more")

    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", unreachable)
    with pytest.raises(DataError, match=r"'some/name' is neither here nor .*\(no network\)"):
        load("some/name")


def test_from_the_hub(monkeypatch):
    import transformers

    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=BPE._backend, eos_token=END)
    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", lambda name, **_: fast)
    found = load("some/name")
    assert (found.size, found.end) == (BPE.size, BPE.end)
    assert found.encode(SAMPLE)[0].tolist() == BPE.encode(SAMPLE)[0].tolist()


@pytest.mark.parametrize("name", ["bpe:", "bpe:x", "bpe:256", "bpe:-5", "bpe:99999999"])
def test_a_bpe_of_an_impossible_size(name):
    with pytest.raises(DataError, match="expected bpe:N"):
        bpe_size(name)
    assert bpe_size("bpe:257") == 257
    assert bpe_size("bytes") is None


SPLITS = {
    "bpe:N": None,
    "words of a model's own": pre_tokenizers.Split(Regex(r"\p{N}{1,3}| ?\p{L}+|\s+|[^\s\p{L}\p{N}]+"), "isolated"),
}  # fmt: skip


def _tokenizer(split):
    made = tokenizers.train_bpe(
        [" ".join(f"word{n} ducks, 12345 ponds\n" for n in range(300))], 400
    )
    if split is not None:
        ends = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        made._backend.pre_tokenizer = pre_tokenizers.Sequence([split, ends])
    return made


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("between", [" ", "\n", "\n\n  ", "，", ". "])
def test_a_long_text_in_pieces_has_the_ids_that_it_has_whole(monkeypatch, split, between):
    monkeypatch.setattr(tokenizers, "PIECE", 1000)
    made = _tokenizer(SPLITS[split])
    text = between.join(f"word{n % 7} 漢字{n} ducks' {n * 7919}" for n in range(400))
    asked = []
    ids = made._ids
    monkeypatch.setattr(made, "_ids", lambda texts: asked.extend(texts) or ids(texts))
    assert made.encode([text, "ducks"])[0].tolist() == ids([text])[0].tolist()
    assert max(map(len, asked)) < 2000  # it was cut


def test_a_long_text_that_cannot_be_cut_is_encoded_whole(monkeypatch):
    """A tokenizer that begins every piece with a blank of its own."""
    monkeypatch.setattr(tokenizers, "PIECE", 1000)
    made = _tokenizer(pre_tokenizers.Metaspace())
    text = "ducks " * 400
    assert made.encode([text])[0].tolist() == made._ids([text])[0].tolist()


def test_a_text_without_blanks_is_merged_in_stretches():
    """The time would grow with the square of the stretch; what is cut is put together again."""
    made = tokenizers.train_bpe(["a" * 5000 + "漢字かな交じり文" * 500], 400)
    longest = max(len(word) for word in made._backend.get_vocab())
    assert longest <= tokenizers.LONGEST
    text = "漢字かな交じり文" * 300
    assert made.decode(made.encode([text])[0]) == text
