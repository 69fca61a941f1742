"""Muon: what its matrices become, and which parameters it takes."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from duckweed.learn.optim import matrix_muon
from duckweed.learn.optim.matrix_muon import MatrixMuon, orthogonalise


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=40)
@given(
    st.integers(2, 24), st.floats(1.5, 6), st.integers(0, 10**6), st.floats(-8, 8), st.booleans()
)
def test_singular_values_come_near_one(short, aspect, seed, exponent, tall):
    """For random matrices that are not nearly square: there the smallest singular value is not so
    far below the largest that five iterations cannot lift it."""
    g = random(short, int(short * aspect) + 4, seed=seed) * 10**exponent
    values = torch.linalg.svdvals(orthogonalise(g.mT if tall else g))
    assert values.min() > 0.6
    assert values.max() < 1.3


def test_no_singular_value_ends_far_above_one_and_zero_stays_zero():
    assert torch.linalg.svdvals(orthogonalise(random(48, 48))).max() < 1.3
    assert not orthogonalise(torch.zeros(5, 7)).any()


@pytest.mark.parametrize("shape", [(6, 20), (20, 6), (8, 30)])
def test_singular_vectors_stay(shape):
    g = random(*shape)
    u, _, v = torch.linalg.svd(g, full_matrices=False)
    inside = u.mT @ orthogonalise(g) @ v.mT
    assert (inside - inside.diagonal().diag()).abs().max() < 1e-4


def test_row_and_column_space_of_a_matrix_of_low_rank_stay():
    g = random(16, 2) @ random(2, 40, seed=1)
    got = orthogonalise(g)
    u, _, v = torch.linalg.svd(g, full_matrices=False)
    u, v = u[:, :2], v[:2]
    assert (got - u @ (u.mT @ got)).abs().max() < 1e-4
    assert (got - (got @ v.mT) @ v).abs().max() < 1e-4
    assert torch.linalg.svdvals(got)[1] > 0.6


def steps(parameters, gradients):
    muon = MatrixMuon(parameters, momentum=0.95, weight_decay=0.1)
    for gradient in gradients:
        for parameter, g in zip(parameters, gradient, strict=True):
            parameter.grad = g.clone()
        muon.step(0.02)
    return [p.detach() for p in parameters]


def test_tall_wide_and_stacked_matrices_together_do_what_each_does_alone():
    shapes = [(6, 20), (20, 6), (6, 20), (3, 6, 20), (2, 20, 6), (9, 9)]
    start = [random(*shape, seed=i) for i, shape in enumerate(shapes)]
    gradients = [[random(*s, seed=10 * k + i) for i, s in enumerate(shapes)] for k in range(3)]
    together = steps([torch.nn.Parameter(x.clone()) for x in start], gradients)
    for i, got in enumerate(together):
        alone = steps([torch.nn.Parameter(start[i].clone())], [[g[i]] for g in gradients])[0]
        torch.testing.assert_close(got, alone, rtol=0, atol=1e-5)
        if len(shapes[i]) == 3:
            for k in range(shapes[i][0]):
                one = torch.nn.Parameter(start[i][k].clone())
                one = steps([one], [[g[i][k]] for g in gradients])[0]
                torch.testing.assert_close(got[k], one, rtol=0, atol=1e-5)


def test_one_step_is_the_formula():
    p, g = torch.nn.Parameter(random(6, 20)), random(6, 20, seed=1)
    expected = p.detach() * (1 - 0.02 * 0.1) - 0.02 * 0.2 * 20**0.5 * orthogonalise(g + 0.95 * g)
    torch.testing.assert_close(steps([p], [[g]])[0], expected)


def test_matrices_are_made_orthogonal_a_bounded_number_at_a_time_with_the_same_result(monkeypatch):
    def stepped():
        torch.manual_seed(2)
        shapes = [(8, 12), (12, 8), (3, 8, 12), (8, 8), (8, 12)]
        parameters = [torch.nn.Parameter(torch.randn(shape)) for shape in shapes]
        one = MatrixMuon(parameters, 0.9, 0.1)
        for p in parameters:
            p.grad = torch.randn_like(p)
        one.step(0.02)
        return one, parameters

    together, reference = stepped()
    assert [len(group) for _, group in together.groups] == [4, 1]
    monkeypatch.setattr(matrix_muon, "AT_ONCE", 2 * 96)
    apart, parameters = stepped()
    assert [len(group) for _, group in apart.groups] == [2, 1, 1, 1]
    for p, wanted in zip(parameters, reference, strict=True):
        assert torch.allclose(p, wanted, rtol=1e-6, atol=1e-7)
