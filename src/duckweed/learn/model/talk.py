"""A conversation with a model, in the form in which it was trained."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer

from duckweed.learn.data import tokenizer as tokenizers
from duckweed.learn.data.chat import Conversation, Template
from duckweed.learn.data.reading import DataError
from duckweed.learn.data.tokenizer import no_tokenizer
from duckweed.learn.device import seeded
from duckweed.learn.model.generation import TOP_P, Mixture, Written, drawn, keeps_the_past, mixed
from duckweed.learn.model.given import model_in

Write = Callable[[str], None]


class Talk:
    """Asks a model, and keeps what was said. folder: in Hugging Face's format."""

    def __init__(
        self,
        folder: Path,
        device: str,
        seed: int = 0,
        system: str = "",
        mixture: Mixture | None = None,
    ) -> None:
        """system: what the model is told before everything else; mixture: models that answer with it. Raises DataError,
        ModelError."""
        try:
            self._reader: Any = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        except (OSError, ValueError) as error:
            raise DataError(no_tokenizer(str(folder), error)) from error
        self._tokenizer = tokenizers.load(folder)
        self._template = Template(self._tokenizer)
        self._network: Any = model_in(folder).to(device).eval()
        self._device, self._seed, self._mixture = device, seed, mixture
        self._told: Conversation = [("system", system)] if system else []
        self.said: Conversation = []
        self._stops = self._template.stops(self._tokenizer)
        start = torch.tensor([[self._tokenizer.end]], device=device)
        self._past = keeps_the_past(self._network, start, self._tokenizer.end)

    @property
    def plain(self) -> bool:
        """Whether the tokenizer brought no chat template, so that the plain one is used."""
        return self._tokenizer.template is None

    def ask(
        self, text: str, tokens: int, temperature: float, write: Write, top_p: float = TOP_P
    ) -> int:
        """Say something, and hand on the answer as it is written. What no longer fits before an answer of as
        many tokens is forgotten, the oldest first; returns how many messages. Raises DataError where the
        text alone does not fit."""
        self.said.append(("user", text))
        ids, forgotten = self._fitting(tokens)
        place = torch.tensor([ids], device=self._device)
        with seeded(self._seed + len(self.said), self._device):
            out = drawn(
                self._network, place, tokens, temperature, self._tokenizer.end, top_p,
                use_cache=self._past, eos_token_id=self._stops,
                streamer=Written(self._reader, write, whole=False),
                logits_processor=mixed(self._network, self._mixture, self._tokenizer.end),
            )  # fmt: skip
        answer = [x for x in out[0, len(ids) :].tolist() if x not in self._stops]
        self.said.append(("assistant", self._tokenizer.decode(answer)))
        return forgotten

    def _fitting(self, tokens: int) -> tuple[list[int], int]:
        most = getattr(self._network.config, "max_position_embeddings", None)
        for forgotten in range(0, len(self.said), 2):
            shown = [*self._told, *self.said[forgotten:]]
            text = self._template.render(shown, ask=True)
            ids = [int(x) for x in self._tokenizer.encode_marked([text])[0]]
            if not most or len(ids) + tokens <= most:
                self.said = self.said[forgotten:]
                return ids, forgotten
        self.said.pop()
        raise DataError(
            f"what you say has {len(ids):,} tokens, and the model has positions for {most:,} with an answer of "
            f"{tokens:,}; say less, or ask for fewer tokens"
        )
