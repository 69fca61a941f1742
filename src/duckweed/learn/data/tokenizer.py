"""Text to token ids and back: bytes, byte-level BPE trained on the spot, or any Hugging Face one.

All are backed by the `tokenizers` library and save themselves as a folder that
`transformers.AutoTokenizer.from_pretrained` loads.
"""

import json
import re
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers, trainers

from duckweed.learn.data.reading import DataError

END = "<|endoftext|>"
LONGEST = 64
"""Bytes of a stretch without blanks that `bpe:N` takes at once; a longer one is cut. The time that merging
takes grows with the square of it, and Chinese, or a line of one letter, has no blanks at all."""
PIECE = 1 << 18  # characters of a text that are encoded at once, at least
AROUND = 256  # characters on each side of a cut that are looked at
PLACES = 64  # that are tried for a cut
BETWEEN_WORDS = re.compile(r"(?<=\S)(?=\s)|(?<=\W)(?=\w)")
TRAIN_BYTES = 50_000_000  # of training text that `bpe:N` learns its merges from
# What a bare tokenizer.json may call the token that ends a document; the first present is taken.
END_NAMES = (END, "<|end_of_text|>", "</s>", "<eos>", "<|eos|>", "<｜end▁of▁sentence｜>")
BYTE_COUNT = 256
# What a tokenizer_config.json says that leaves the ids of a text as they are.
KEPT = (
    "model_max_length", "padding_side", "truncation_side", "chat_template", "model_input_names",
    "bos_token", "pad_token", "unk_token", "sep_token", "cls_token", "mask_token",
)  # fmt: skip

Ids = NDArray[np.unsignedinteger]


class Tokenizer:
    """Turns texts into ids below `size` and back; `end` is the id that ends a document."""

    def __init__(self, backend: Backend, end: str, extra: dict[str, str] | None = None) -> None:
        """`extra` holds the other files of a Hugging Face folder: name -> content."""
        self._backend = backend
        # Text that happens to spell a special token is text, not the end of a document.
        backend.encode_special_tokens = True
        backend.no_truncation()
        backend.no_padding()
        number = backend.token_to_id(end)
        if number is None:
            raise DataError(f"tokenizer: its end-of-text token '{end}' is not in its vocabulary")
        self.end: int = number
        self.size: int = 1 + max(backend.get_vocab(with_added_tokens=True).values())
        self.dtype: np.dtype = np.dtype(np.min_scalar_type(self.size - 1)).newbyteorder("<")
        self._end_text = end
        self._extra = dict(extra or {})

    def encode(self, texts: Sequence[str]) -> list[Ids]:
        """One array of ids per text, without the end-of-document id; dtype is `self.dtype`. A long text is
        encoded in pieces, because the library holds some 140 bytes for each token meanwhile."""
        short = iter(self._ids([text for text in texts if len(text) <= PIECE]))
        return [next(short) if len(text) <= PIECE else self._joined(text) for text in texts]

    def encode_marked(self, texts: Sequence[str]) -> list[Ids]:
        """The same, but what spells a special token is that token: of what a chat template has made."""
        self._backend.encode_special_tokens = False
        try:
            return self._ids(list(texts))
        finally:
            self._backend.encode_special_tokens = True

    @property
    def template(self) -> str | None:
        """The chat template that came with the tokenizer, as Jinja."""
        if text := self._extra.get("chat_template.jinja"):
            return text
        found = self._config().get("chat_template")
        if isinstance(found, list):  # of several by name
            named = {x.get("name"): x.get("template") for x in found if isinstance(x, dict)}
            found = named.get("default")
        return found if isinstance(found, str) else None

    def give_template(self, text: str) -> None:
        """Set the chat template, which is saved with the tokenizer."""
        self._extra["chat_template.jinja"] = text

    @property
    def specials(self) -> dict[str, str]:
        """What a chat template may call special tokens by, such as eos_token: name -> text."""
        found = {}
        for name, value in self._config().items():
            value = value.get("content") if isinstance(value, dict) else value
            if name.endswith("_token") and isinstance(value, str):
                found[name] = value
        return found | {"eos_token": self._end_text}

    def is_special(self, number: int) -> bool:
        """Whether an id is that of a special token."""
        added = self._backend.get_added_tokens_decoder()
        return number in added and bool(added[number].special)

    def _config(self) -> dict[str, Any]:
        return dict(json.loads(self._extra.get("tokenizer_config.json", "{}")))

    def _ids(self, texts: list[str]) -> list[Ids]:
        encodings = self._backend.encode_batch_fast(texts, add_special_tokens=False)
        return [np.array(encoding.ids, dtype=self.dtype) for encoding in encodings]

    def _joined(self, text: str) -> Ids:
        pieces, start = [], 0
        while start < len(text):
            end = self._cut(text, start + PIECE)
            pieces += self._ids([text[start:end]])
            start = end
        return np.concatenate(pieces)

    def _cut(self, text: str, least: int) -> int:
        """The first place from `least` on where a text may be cut: encoded in two, what is around it gives
        the ids that it gives whole. The end of the text if there is none nearby."""
        for found in islice(BETWEEN_WORDS.finditer(text, least, least + PIECE), PLACES):
            at = found.start()
            left, right = text[at - AROUND : at], text[at : at + AROUND]
            whole, *halves = self._ids([left + right, left, right])
            if np.array_equal(whole, np.concatenate(halves)):
                return at
        return len(text)

    def decode(self, ids: Sequence[int] | Ids) -> str:
        """The text of `ids`, special tokens left out; bytes that are not UTF-8 become U+FFFD."""
        return self._backend.decode([int(i) for i in ids], skip_special_tokens=True)

    def save(self, folder: Path) -> None:
        """Writes tokenizer.json and tokenizer_config.json into `folder`, as transformers does."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in self._files().items():
            (folder / name).write_text(content, encoding="utf-8")

    @property
    def hash(self) -> str:
        """blake3 (hex) of all that decides the ids: two with the same hash encode alike."""
        definition = json.loads(self._files()["tokenizer.json"])
        text = json.dumps([definition, self.end, self.size], sort_keys=True)
        return blake3(text.encode()).hexdigest()

    def _files(self) -> dict[str, str]:
        given = json.loads(self._extra.get("tokenizer_config.json", "{}"))
        config = {
            # The class that takes tokenizer.json as it is: others build a tokenizer of their own from its
            # vocabulary, and settings such as add_prefix_space or auto_map change what is built.
            "tokenizer_class": "PreTrainedTokenizerFast",
            "clean_up_tokenization_spaces": False,
            **{key: value for key, value in given.items() if key in KEPT},
            "eos_token": self._end_text,
        }
        return {
            **self._extra,
            "tokenizer_config.json": json.dumps(config, indent=2),
            "tokenizer.json": self._backend.to_str(pretty=True),
        }


class ByteTokenizer(Tokenizer):
    """One id per byte of the UTF-8 text; id 0 ends a document.

    The byte 0 can serve as the end because the corpus lets no text with a NUL through. That keeps
    the vocabulary at 256: one byte per stored token, and matrices of a size that hardware likes.
    """

    def __init__(self, extra: dict[str, str] | None = None) -> None:
        vocabulary = {char: byte for byte, char in byte_alphabet().items() if byte}
        # The unknown token catches byte 0, so that the ids equal the bytes for all 256 of them.
        backend = Backend(models.BPE(vocab={**vocabulary, END: 0}, merges=[], unk_token=END))
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        backend.decoder = decoders.ByteLevel()
        backend.add_special_tokens([END])
        super().__init__(backend, END, extra)

    def encode(self, texts: Sequence[str]) -> list[Ids]:
        return [np.frombuffer(text.encode(), dtype=np.uint8) for text in texts]

    def encode_marked(self, texts: Sequence[str]) -> list[Ids]:
        return [np.frombuffer(text.replace(END, "\0").encode(), dtype=np.uint8) for text in texts]

    def decode(self, ids: Sequence[int] | Ids) -> str:
        array = np.asarray(ids)
        if array.size and (array.min() < 0 or array.max() >= BYTE_COUNT):
            raise ValueError("byte tokenizer: an id is outside 0..255")
        return array[array != self.end].astype(np.uint8).tobytes().decode(errors="replace")


def byte_alphabet() -> dict[int, str]:
    """The printable character that stands for each byte in byte-level vocabularies (as in GPT-2):
    Latin-1 printables for themselves, the other 68 from U+0100 on in order."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = iter(range(BYTE_COUNT, 2 * BYTE_COUNT))
    return {byte: chr(byte if byte in printable else next(others)) for byte in range(BYTE_COUNT)}


def bpe_size(name: str) -> int | None:
    """N of "bpe:N", None for another tokenizer; DataError if N is no possible size."""
    if not name.startswith("bpe:"):
        return None
    number = name.removeprefix("bpe:")
    if not number.isdecimal() or not BYTE_COUNT < int(number) <= 1 << 20:
        raise DataError(
            f"data: tokenizer '{name}': expected bpe:N with N, the size of the vocabulary, "
            f"between {BYTE_COUNT + 1} and {1 << 20}; for example bpe:4096"
        )
    return int(number)


def train_bpe(texts: Iterable[str], size: int) -> Tokenizer:
    """Byte-level BPE with at most `size` ids, learnt from the first 50 MB of `texts`.

    Sennrich, Haddow and Birch 2016 (arXiv:1508.07909), on bytes as in GPT-2, whose words are cut after
    LONGEST bytes. Deterministic: the same texts give the same merges. A small text may have fewer pairs to
    merge than asked for.
    """
    backend = Backend(models.BPE())
    words = pre_tokenizers.ByteLevel(add_prefix_space=False)
    cut = pre_tokenizers.FixedLength(length=LONGEST)
    backend.pre_tokenizer = pre_tokenizers.Sequence([words, cut])
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[END],
        initial_alphabet=sorted(byte_alphabet().values()),
        show_progress=False,
    )
    backend.train_from_iterator(_first(texts, TRAIN_BYTES), trainer)
    return Tokenizer(backend, END)


def load(name: str | Path, base: Path = Path()) -> Tokenizer:
    """The tokenizer of that name: "bytes", a tokenizer.json, a folder, or a name on the hub.

    Relative paths are relative to `base`. Reads back what `Tokenizer.save` wrote. Raises DataError
    if there is none, it cannot be read, or it has no token that ends a document.
    """
    if str(name) == "bytes":
        return ByteTokenizer()
    if bpe_size(str(name)):
        raise DataError(f"tokenizer: '{name}' has to be trained on texts before it can be loaded")
    path = base / Path(name).expanduser()
    if path.is_file():
        return _from_folder(path.parent, path.name)
    if (path / "tokenizer.json").is_file():
        return _from_folder(path, "tokenizer.json")
    if not path.is_dir() and (str(name).startswith((".", "~", "/")) or path.suffix == ".json"):
        raise DataError(f"tokenizer: there is no file or folder {path}")
    return _from_transformers(str(path) if path.is_dir() else str(name))


def _from_folder(folder: Path, name: str) -> Tokenizer:
    path = folder / name
    try:
        backend = Backend.from_file(str(path))
    except Exception as error:  # the library raises bare Exception
        raise DataError(f"tokenizer: {path} is not a tokenizer.json: {error}") from error
    extra = {}
    if name == "tokenizer.json":
        others = ("tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")
        extra = {n: (folder / n).read_text("utf-8") for n in others if (folder / n).is_file()}
    tokenizer = Tokenizer(backend, _end_of(backend, extra, path), extra)
    bytes_like = ByteTokenizer(
        {name: text for name, text in extra.items() if name == "chat_template.jinja"}
    )
    # What save() wrote for bytes comes back as bytes: the same ids, a hundred times faster.
    return bytes_like if tokenizer.hash == bytes_like.hash else tokenizer


def _end_of(backend: Backend, extra: dict[str, str], path: Path) -> str:
    """The text of the token that ends a document, from the files beside it or by its usual name."""
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        try:
            token: Any = json.loads(extra.get(name, "{}")).get("eos_token")
        except (ValueError, AttributeError) as error:
            raise DataError(f"tokenizer: {path.parent / name} is damaged: {error}") from error
        token = token.get("content") if isinstance(token, dict) else token
        if isinstance(token, str):
            return token
    for token in END_NAMES:
        if backend.token_to_id(token) is not None:
            return token
    raise DataError(
        f"tokenizer: {path} does not say which token ends a document; put a tokenizer_config.json "
        'with "eos_token" beside it and give the folder'
    )


def no_tokenizer(name: str, error: Exception) -> str:
    """What to say where transformers finds no tokenizer of that name."""
    if Path(name).is_dir():
        return (
            f"tokenizer: the folder {name} holds none that can be read; it wants a tokenizer.json with its "
            "tokenizer_config.json, as the model's authors have them"
        )
    reason = str(error).strip().split("\n")[0]
    return (
        f"tokenizer: '{name}' is neither here nor on the Hugging Face hub ({reason}); give 'bytes', 'bpe:N', a "
        "tokenizer.json, a folder, or check the name and the network"
    )


def _from_transformers(name: str) -> Tokenizer:
    """From the hub or an older kind of folder, by way of the files that transformers saves."""
    import transformers  # seconds

    try:
        found = transformers.AutoTokenizer.from_pretrained(name, trust_remote_code=False)
        with tempfile.TemporaryDirectory() as folder:
            found.save_pretrained(folder)
            if (Path(folder) / "tokenizer.json").is_file():
                return _from_folder(Path(folder), "tokenizer.json")
    except DataError:
        raise
    except Exception as error:  # whatever the network or the files raised
        raise DataError(no_tokenizer(name, error)) from error
    raise DataError(f"tokenizer: '{name}' has no fast version (tokenizer.json); choose another")


def _first(texts: Iterable[str], limit: int) -> Iterator[str]:
    for text in texts:
        yield text
        limit -= len(text.encode())
        if limit <= 0:
            return
