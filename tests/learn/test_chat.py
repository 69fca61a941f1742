"""Conversations: read, rendered, marked, packed, trained."""

import json

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
from fixtures import resumed, talk, tiny
from hypothesis import given
from hypothesis import strategies as st

from duckweed.learn.data import tokenizer as tokenizers
from duckweed.learn.data.chat import FIRST, LEARNT, Template, conversation_of
from duckweed.learn.data.reading import DataError
from duckweed.learn.model import checks
from duckweed.learn.model.talk import Talk
from duckweed.learn.tasks.packing import IDS, LEARN, POSITIONS, Packed
from duckweed.round import export, founding
from duckweed.run import spec as specs
from duckweed.run.events import RoundClosed
from duckweed.run.folder import FolderError

END = b"\0".decode()


def prepared(tmp_path, changes=None, found=None):
    spec = talk.specification(tmp_path, changes)
    if found is not None:
        talk.write(tmp_path / "talk.jsonl", found)
    return spec, founding.prepare(spec, tmp_path, lambda text: None)


def learnt(dataset, side=0):
    tokens, marks = (dataset.train, dataset.held_out)[side], dataset.marks[side]
    return bytes(tokens[(marks & LEARNT) > 0]).decode()


def test_only_what_the_assistant_says_and_the_end_of_its_turn_is_learnt(tmp_path):
    found = [{"prompt": f"{n}?", "completion": f"={n};"} for n in range(100, 140)]
    _, ground = prepared(tmp_path, found=found)
    both = learnt(ground.dataset) + learnt(ground.dataset, 1)
    assert sorted(both.split(END)) == ["", *(row["completion"] for row in found)]
    text = bytes(ground.dataset.train).decode()
    assert text.startswith("User: 1")
    assert "?\nAssistant:\n=1" in text


def test_a_limit_of_bytes_leaves_out_the_row_that_it_would_cut(tmp_path):
    found = [{"prompt": f"{n}?", "completion": f"={n};"} for n in range(100, 140)]
    _, ground = prepared(tmp_path, {"data.limit": 1000}, found)
    both = learnt(ground.dataset) + learnt(ground.dataset, 1)
    ends = sorted(both.split(END))
    assert 10 < len(ends) < len(found)
    assert ends == ["", *(row["completion"] for row in found[: len(ends) - 1])]
    with pytest.raises(DataError, match="the first row is larger than the limit of 5 bytes"):
        prepared(tmp_path, {"data.limit": 5}, found)


def test_prompt_and_completion_messages_and_parquet_are_the_same_conversations(tmp_path):
    found = talk.rows(60)
    _, ground = prepared(tmp_path, found=found)
    as_messages = [
        row
        if "messages" in row
        else {
            "messages": [
                {"role": "user", "content": row["prompt"]},
                {"role": "assistant", "content": row["completion"]},
            ]
        }
        for row in found
    ]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(as_messages), tmp_path / "talk.parquet")
    _, other = prepared(tmp_path, {"data.path": "talk.parquet"})
    assert other.dataset.manifest.tokens_hash == ground.dataset.manifest.tokens_hash


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (
            {"text": "x"},
            "t.jsonl:3: there is no field 'messages' or 'prompt' and 'completion', only text",
        ),
        ({"messages": "x"}, "t.jsonl:3: 'messages' has nothing that the assistant says"),
        ({"messages": 7}, "t.jsonl:3: 'messages' holds int '7'; expected a list of messages"),
        (
            {"messages": [{"role": "user", "content": "x"}, {"role": "bot", "content": "y"}]},
            "t.jsonl:3: messages[1]: role 'bot' is not one of 'system', 'user', 'assistant'",
        ),
        (
            {"messages": [{"role": "user"}]},
            "t.jsonl:3: messages[0]: there is no 'content', only role",
        ),
        (
            {"messages": [{"role": "user", "content": None}]},
            "t.jsonl:3: messages[0]: 'content' holds nothing; expected text",
        ),
        ({"prompt": "x", "completion": ""}, "nothing that the assistant says"),
        (["x"], "t.jsonl:3: expected an object with messages, not list"),
    ],
)
def test_a_row_of_the_wrong_form_is_named_by_line_and_field(row, words):
    with pytest.raises(DataError) as error:
        conversation_of(row, "text", "t.jsonl:3")
    assert words in str(error.value)


def test_another_field_can_hold_the_messages():
    row = {"chat": [{"role": "assistant", "content": "x"}]}
    assert json.loads(conversation_of(row, "chat", "")) == [["assistant", "x"]]


def test_a_prompt_longer_than_the_context_is_left_out_and_said(tmp_path):
    found = [*talk.rows(40), {"prompt": "?" * 500, "completion": "x"}]
    _, ground = prepared(tmp_path, found=found)
    said = ground.dataset.manifest.told()
    assert "1 prompt longer than the context" in said
    assert "tokens before the answer, model.sequence = 96" in said
    with pytest.raises(DataError, match="no conversation to train on"):
        prepared(tmp_path, {"model.sequence": 8}, found=found)


def test_the_end_of_a_conversation_that_is_too_long_is_cut(tmp_path):
    _, ground = prepared(tmp_path, found=[*talk.rows(40), {"prompt": "?", "completion": "x" * 500}])
    assert "1 end of a conversation beyond the context" in ground.dataset.manifest.told()


def test_a_template_of_the_tokenizer_itself_is_used_and_its_special_tokens_are_tokens(tmp_path):
    own = tokenizers.train_bpe([tiny.text(500)], 300)
    own.give_template(
        "{% for m in messages %}[{{ m.role }}]{{ m.content }}{{ eos_token }}{% endfor %}"
        "{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    own.save(tmp_path / "own")
    again = tokenizers.load(tmp_path / "own")
    template = Template(again)
    pieces = template.pieces([("user", "a"), ("assistant", "b")])
    assert pieces == [("[user]a<|endoftext|>[assistant]", False), ("b<|endoftext|>", True)]
    ids = again.encode_marked([pieces[1].text])[0]
    assert ids[-1] == again.end
    assert again.end not in again.encode([pieces[1].text])[0]  # in plain text it is text


def test_what_a_template_shows_otherwise_later_is_not_learnt(tmp_path):
    own = tokenizers.load("bytes")
    own.give_template(  # of answers before the last, only the first letter
        "{% for m in messages %}{% if m.role == 'assistant' and not loop.last %}A{{ m.content[0] }};"
        "{% else %}{{ m.role[0] }}{{ m.content }};{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}a{% endif %}"
    )
    pieces = Template(own).pieces(
        [("user", "x"), ("assistant", "yes"), ("user", "z"), ("assistant", "no")]
    )
    assert [piece.text for piece in pieces if piece.learnt] == ["no;"]
    assert "".join(piece.text for piece in pieces) == "ux;Ay;uz;ano;"


@given(st.lists(st.integers(2, 33), min_size=1, max_size=60))
def test_packing_keeps_every_conversation_once_and_wastes_little(lengths):
    marks = np.concatenate([[FIRST] + [LEARNT] * (n - 1) for n in lengths]).astype(np.uint8)
    tokens = np.concatenate([np.full(n, number) for number, n in enumerate(lengths)])
    packed = Packed(tokens, marks, 32)
    rows = packed.batch(np.arange(len(packed)), 999)
    held = rows[IDS][rows[IDS] != 999]
    assert sorted(held) == sorted(tokens)
    assert rows[LEARN].sum() == sum(lengths) - len(lengths)
    assert len(packed) <= 11 / 9 * -(-sum(lengths) // 33) + 1 + sum(n > 16 for n in lengths)
    for ids, positions in zip(rows[IDS], rows[POSITIONS], strict=True):
        begins = np.flatnonzero(positions == 0)
        assert all(len(set(part)) == 1 for part in np.split(ids, begins[1:]))


def test_a_packed_conversation_has_the_loss_that_it_has_alone(tmp_path):
    spec, ground = prepared(tmp_path)
    model = founding.first_model(spec, ground)
    one = founding.learner(spec, ground, "cpu")
    weights = founding.models.read_weights(model)
    alone = founding.learner(talk.specification(tmp_path, {"task.packing": False}), ground, "cpu")
    nats, tokens = one.evaluate(weights, None)
    again, as_many = alone.evaluate(weights, None)
    assert tokens == as_many == ground.dataset.manifest.held_out_learnt
    assert nats == pytest.approx(again, rel=1e-5)
    checks.check_packs(model, 64, 256)


def test_a_model_that_does_not_keep_conversations_apart_is_refused(tmp_path):
    spec, ground = prepared(tmp_path)

    class Leaky(torch.nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, input_ids, position_ids=None):
            return self.inner(input_ids=input_ids)

    with pytest.raises(checks.Unsuited, match=r"set task\.packing = false"):
        checks.check_packs(Leaky(founding.first_model(spec, ground)), 64, 256)


def test_several_peers_learn_conversations_and_a_stopped_run_ends_in_the_same_state(tmp_path):
    changes = {"inner.learning_rate": 0.03, "rounds.count": 4, "rounds.peers": 2}
    spec = talk.specification(tmp_path, changes)
    folder, ends = resumed.whole_and_stopped(tmp_path, spec, stop=1)
    losses = [e.held_out for e in folder.records(RoundClosed) if e.held_out is not None]
    assert losses[-1] < losses[0] - 0.2
    assert ends[0] == ends[1]


def test_the_folder_of_a_finished_run_is_a_model_with_its_tokenizer(tmp_path):
    spec, ground = prepared(tmp_path)
    folder, ground, _ = tiny.found(tmp_path, "sft", spec)
    given = specs.override(spec, {"model.source": "runs/sft", "model.weights": "given"})
    with pytest.raises(FolderError, match="not finished"):
        specs.with_own_tokenizer(given, tmp_path)
    export.harvest(folder, spec, ground, "cpu")
    own = specs.with_own_tokenizer(given, tmp_path)
    assert own.data.tokenizer == "runs/sft/model"
    again = founding.prepare(own, tmp_path, lambda text: None)
    assert again.dataset.manifest.tokens_hash == ground.dataset.manifest.tokens_hash
    one, other = (founding.first_model(s, g) for s, g in ((spec, ground), (own, again)))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_a_conversation_streams_its_answers_and_forgets_what_no_longer_fits(tmp_path):
    spec, ground = prepared(tmp_path)
    folder, ground, _ = tiny.found(tmp_path, "sft", spec)
    export.harvest(folder, spec, ground, "cpu")
    talk = Talk(folder.model, "cpu", system="Add.")
    written = []
    assert not talk.plain
    assert talk.ask("1+2?", 12, 0.7, written.append) == 0
    assert "".join(written).strip() == talk.said[1][1].strip()
    assert [role for role, _ in talk.said] == ["user", "assistant"]
    again = Talk(folder.model, "cpu", system="Add.")
    again.ask("1+2?", 12, 0.7, lambda text: None)
    assert again.said == talk.said
    assert talk.ask("x" * 985, 12, 0.7, lambda text: None) == 2
    assert [text for role, text in talk.said if role == "user"] == ["x" * 985]
    with pytest.raises(DataError, match="say less"):
        talk.ask("x" * 3000, 12, 0.7, lambda text: None)
