"""Conversations: read from rows, made into text by a chat template, and into tokens whose learnt part is
known.

A conversation is a list of (role, content). What is learnt of it is what the assistant says, up to and
with what ends its turn.
"""

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from duckweed.learn.data.reading import DataError, Reading
from duckweed.learn.data.tokenizer import Ids, Tokenizer

Conversation = list[tuple[str, str]]
ROLES = ("system", "user", "assistant")
FIRST, LEARNT = 1, 2  # marks of a token: it begins a conversation; the loss is taken over it
DEFAULT_FIELD = "text"  # of section [data]; of conversations it names nothing
PLAIN = """{%- for message in messages -%}
{%- if message.role == 'assistant' -%}{{ 'Assistant:\n' + message.content + eos_token }}
{%- elif message.role == 'user' -%}{{ 'User: ' + message.content + '\n' }}
{%- else -%}{{ message.content + '\n' }}{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ 'Assistant:\n' }}{%- endif -%}
"""
"""The template where the tokenizer has none."""


def conversation_of(row: Any, field: str, where: str) -> str | None:
    """A row as the JSON text of its conversation: from `messages` (or the field that is named), or from
    `prompt` and `completion`, each a text or messages. Raises DataError."""
    if not isinstance(row, dict):
        raise DataError(f"data: {where}: expected an object with messages, not {_kind(row)}")
    name = "messages" if field == DEFAULT_FIELD else field
    if name in row:
        found = _messages(row[name], "user", name, where)
    elif field == DEFAULT_FIELD and {"prompt", "completion"} <= row.keys():
        found = _messages(row["prompt"], "user", "prompt", where)
        found += _messages(row["completion"], "assistant", "completion", where)
    else:
        wanted = f"'{name}'" + (" or 'prompt' and 'completion'" if field == DEFAULT_FIELD else "")
        raise DataError(
            f"data: {where}: there is no field {wanted}, only {', '.join(row) or 'none'}; name the one that "
            'holds the messages: field = "..." in [data], or --set data.field=NAME'
        )
    if not any(role == "assistant" and text for role, text in found):
        raise DataError(f"data: {where}: '{name}' has nothing that the assistant says")
    if any("\0" in text for _, text in found):
        return "\0"  # it is left out, as any text with one
    return json.dumps(found, ensure_ascii=False)


def _messages(value: Any, role: str, name: str, where: str) -> Conversation:
    """role: of a message that is only a text."""
    if isinstance(value, str):
        return [(role, value)]
    if not isinstance(value, list) or not value:
        raise DataError(
            f"data: {where}: '{name}' holds {_kind(value)}; expected a list of messages"
        )
    return [_message(one, f"{where}: {name}[{n}]") for n, one in enumerate(value)]


def _message(value: Any, where: str) -> tuple[str, str]:
    if not isinstance(value, dict):
        raise DataError(
            f"data: {where}: expected an object with role and content, not {_kind(value)}"
        )
    for name in ("role", "content"):
        if name not in value:
            raise DataError(
                f"data: {where}: there is no '{name}', only {', '.join(value) or 'nothing'}"
            )
        if not isinstance(value[name], str):
            raise DataError(f"data: {where}: '{name}' holds {_kind(value[name])}; expected text")
    if value["role"] not in ROLES:
        raise DataError(
            f"data: {where}: role {value['role'][:40]!r} is not one of {', '.join(map(repr, ROLES))}"
        )
    return value["role"], value["content"]


def _kind(value: Any) -> str:
    return "nothing" if value is None else f"{type(value).__name__} {str(value)[:40]!r}"


class Piece(NamedTuple):
    """A part of a conversation's text."""

    text: str
    learnt: bool


class Template:
    """A chat template: the tokenizer's own, else the plain one. It is rendered in a sandbox, as transformers
    does it: a template comes with a tokenizer, perhaps from the hub."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.text = tokenizer.template or PLAIN
        self.specials: dict[str, Any] = dict(tokenizer.specials)

    def render(self, conversation: Conversation, ask: bool = False) -> str:
        """The text; ask: with what the assistant's next turn begins with. Raises DataError."""
        from transformers.utils.chat_template_utils import render_jinja_template

        messages = [{"role": role, "content": content} for role, content in conversation]
        try:
            rendered: Any = render_jinja_template(
                conversations=[messages],
                chat_template=self.text,
                add_generation_prompt=ask,
                **self.specials,
            )
        except Exception as error:  # a template raises what it likes
            raise DataError(f"the tokenizer's chat template fails: {error}") from error
        return str(rendered[0][0])

    def stop(self) -> str:
        """What stands behind an answer that says "x": with it the assistant's turn ends."""
        question: Conversation = [("user", "x")]
        before = self.render(question, ask=True)
        after = self.render([*question, ("assistant", "x")])
        return after[len(before) :].rpartition("x")[2] if after.startswith(before) else ""

    def stops(self, tokenizer: Tokenizer) -> list[int]:
        """The ids that end an answer: the tokenizer's end, and the special token that the template puts
        behind what the assistant says."""
        behind = tokenizer.encode_marked([self.stop().strip()])[0][:1].tolist()
        return [
            tokenizer.end,
            *(x for x in behind if x != tokenizer.end and tokenizer.is_special(x)),
        ]

    def pieces(self, conversation: Conversation) -> list[Piece]:
        """The text in parts, in order. What the assistant says after something that the template would show
        otherwise by then (as some do with earlier thoughts) is not learnt. Raises DataError where that is
        true of the last turn."""
        whole, at = self.render(conversation), 0
        found: list[Piece] = []
        last = max(n for n, (role, _) in enumerate(conversation) if role == "assistant")
        for number, (role, _) in enumerate(conversation):
            if role != "assistant":
                continue
            before = self.render(conversation[:number], ask=True)
            after = (
                whole
                if number == len(conversation) - 1
                else self.render(conversation[: number + 1])
            )
            if not (whole.startswith(after) and after.startswith(before) and at <= len(before)):
                if number == last:
                    raise DataError(
                        "the tokenizer's chat template does not show a conversation before its last answer as "
                        "it shows it with the answer; name a tokenizer with another template"
                    )
                continue
            found += [Piece(whole[at : len(before)], False), Piece(after[len(before) :], True)]
            at = len(after)
        return [piece for piece in [*found, Piece(whole[at:], False)] if piece.text]


class ChatForm:
    """How rows become tokens with marks, for sequences of `length` targets. What does not fit is cut, and
    left out where nothing to learn would be left."""

    of = staticmethod(conversation_of)

    def __init__(self, length: int) -> None:
        self.length = length
        self.facts = ["chat", length, PLAIN]

    def texts(self, row: str) -> str:
        """What a tokenizer that is made from the data learns from."""
        return "\n".join(content for _, content in json.loads(row))

    def tokens(
        self, rows: Sequence[str], tokenizer: Tokenizer, reading: Reading
    ) -> list[tuple[Ids, NDArray[np.uint8], int]]:
        """Of each conversation that is kept: ids [n], marks uint8[n], bytes of what is learnt."""
        template = Template(tokenizer)
        parts = [template.pieces(json.loads(row)) for row in rows]
        encoded = iter(tokenizer.encode_marked([piece.text for each in parts for piece in each]))
        found = []
        for row, pieces in zip(rows, parts, strict=True):
            ids = [next(encoded) for _ in pieces]
            marks = [
                np.full(len(x), LEARNT * piece.learnt, np.uint8)
                for x, piece in zip(ids, pieces, strict=True)
            ]
            one, mark = np.concatenate(ids), np.concatenate(marks)
            mark[0] = FIRST
            start = int(np.argmax(mark & LEARNT))
            if not mark.any() or start > self.length or not mark[start] & LEARNT:
                prompt = f"{start:,} tokens before the answer, model.sequence = {self.length:,}"
                reading.leave_out("prompt longer than the context", f"{row[:60]}...", prompt)
                continue
            kept = len(one)
            if kept > self.length + 1:
                reading.leave_out("end of a conversation beyond the context", f"{row[:60]}...")
                kept = self.length + 1
            share = (mark[:kept] & LEARNT).sum() / max(1, (mark & LEARNT).sum())
            size = sum(len(piece.text.encode()) for piece in pieces if piece.learnt)
            found.append((one[:kept], mark[:kept], int(size * share)))
        return found
