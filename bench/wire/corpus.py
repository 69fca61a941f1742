"""The text that the small Llama is trained on: the sources of Python's standard library."""

import sysconfig
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, models, pre_tokenizers, trainers


def corpus(vocabulary: int) -> np.ndarray:
    """The sources as tokens, int64[N]: bytes, or a BPE trained on them."""
    data = _sources()
    if vocabulary == 256:
        return np.frombuffer(data, np.uint8).astype(np.int64)
    pieces = [data[i : i + 10_000].decode("latin1") for i in range(0, len(data), 10_000)]
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.train_from_iterator(pieces, trainers.BpeTrainer(vocab_size=vocabulary, show_progress=False))
    return np.array([token for piece in bpe.encode_batch(pieces) for token in piece.ids])


def _sources() -> bytes:
    root = Path(sysconfig.get_paths()["stdlib"])
    files = sorted(path for path in root.glob("*.py")) + sorted(root.glob("[a-z]*/*.py"))
    files = [path for path in files if not {"test", "site-packages"} & set(path.parts)][:400]
    return b"".join(path.read_bytes() for path in files)
