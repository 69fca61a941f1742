"""How a model writes answers: the draw, the costs of its tokens, where an answer ends."""

import numpy as np
import pytest
import torch
from fixtures import puzzle

from duckweed.learn.tasks.rollout import gumbel, write
from duckweed.round import founding


def test_the_noise_is_that_of_a_draw_from_the_softmax():
    noise = gumbel(torch.arange(4) * 7919, 2, 100_000).double()
    assert float(noise.mean()) == pytest.approx(0.5772, abs=0.01)
    assert float(noise.var()) == pytest.approx(np.pi**2 / 6, abs=0.03)
    logits = torch.log(torch.tensor([0.5, 0.3, 0.2]))
    drawn = (logits + gumbel(torch.arange(20_000), 0, 3)).argmax(-1).bincount() / 20_000
    assert drawn.tolist() == pytest.approx([0.5, 0.3, 0.2], abs=0.015)


def test_an_answer_follows_from_weights_and_key_and_its_costs_are_those_of_the_whole_text(tmp_path):
    spec, ground = puzzle.prepared(tmp_path)
    model = founding.first_model(spec, ground).eval()
    prompts, keys = [[65, 66, 67], [68]], [5, 6]
    one = write(model, prompts, keys, 6, 0.8, [0])
    again = write(model, prompts, keys, 6, 0.8, [0])
    assert np.array_equal(one.ids, again.ids)
    other = write(model, prompts, [5, 7], 6, 0.8, [0])
    assert np.array_equal(one.ids[0], other.ids[0])
    assert not np.array_equal(one.ids[1], other.ids[1])
    for row, prompt in enumerate(prompts):
        length = one.lengths[row]
        text = torch.tensor([[*prompt, *one.ids[row, :length]]])
        logs = torch.log_softmax(model(input_ids=text).logits[0].float() / 0.8, -1)
        told = [-logs[len(prompt) - 1 + n, one.ids[row, n]].item() for n in range(length)]
        assert one.nats[row, :length].tolist() == pytest.approx(told, abs=1e-4)


def test_an_answer_ends_with_a_stop_and_nothing_behind_it_counts(tmp_path):
    spec, ground = puzzle.prepared(tmp_path)
    model = founding.first_model(spec, ground).eval()
    free = write(model, [[65]] * 3, [1, 2, 3], 8, 1.0, [0])
    stop = int(free.ids[0, 2])
    found = write(model, [[65]] * 3, [1, 2, 3], 8, 1.0, [0, stop])
    assert found.lengths[0] <= 3
    assert found.ended[0]
    assert not found.nats[0, found.lengths[0] :].any()


def test_an_answer_is_the_same_alone_and_among_others_that_end_earlier(tmp_path):
    spec, ground = puzzle.prepared(tmp_path)
    model = founding.first_model(spec, ground).eval()
    prompts = [[65, 66, 67], [68]] * 16
    stops = [0, *range(100, 140)]  # about one token in six
    found = write(model, prompts, range(32), 24, 1.0, stops)
    assert found.lengths.min() < 5
    assert found.lengths.max() > 8
    for row, prompt in enumerate(prompts):
        alone = write(model, [prompt], [row], 24, 1.0, stops)
        length = int(alone.lengths[0])
        assert found.lengths[row] == length
        assert found.ended[row] == alone.ended[0]
        assert found.ids[row, :length].tolist() == alone.ids[0, :length].tolist()
        assert found.nats[row, :length] == pytest.approx(alone.nats[0, :length], abs=1e-4)
        assert not found.nats[row, length:].any()
        assert found.entropy[row] == pytest.approx(alone.entropy[0], abs=1e-4)
