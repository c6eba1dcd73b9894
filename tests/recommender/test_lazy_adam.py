"""LazyAdam against torch's Adam, SparseAdam and clipping."""

from copy import deepcopy

import pytest
import torch

from nerf_dfa.recommender.optimizer import LazyAdam


def tables(sparse):
    torch.manual_seed(1)
    return torch.nn.Embedding(20, 3, sparse=sparse)


def run(make, sparse, steps=6, clip=0.0):
    table = tables(sparse)
    optimizer = make(table.parameters())
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        rows = torch.randint(20, (8,), generator=generator)
        optimizer.zero_grad()
        (table(rows) ** 2).sum().backward()
        if clip:
            torch.nn.utils.clip_grad_norm_(table.parameters(), clip)
        optimizer.step()
    return table.weight.detach()


def test_dense_gradients_are_adams():
    torch.testing.assert_close(
        run(lambda p: LazyAdam(p, lr=0.1, weight_decay=0.1), False),
        run(lambda p: torch.optim.Adam(p, lr=0.1, weight_decay=0.1), False),
    )


def test_sparse_gradients_are_sparse_adams():
    ours = run(lambda p: LazyAdam(p, lr=0.1), True)
    torch.testing.assert_close(ours, run(lambda p: torch.optim.SparseAdam(list(p), lr=0.1), True))


def test_rows_that_were_not_read_stay():
    table = tables(True)
    before = table.weight.detach().clone()
    optimizer = LazyAdam(table.parameters(), lr=0.1, weight_decay=0.5)
    for _ in range(3):
        optimizer.zero_grad()
        table(torch.tensor([4, 7, 4])).sum().backward()
        optimizer.step()
    moved = (table.weight != before).any(1).nonzero()[:, 0].tolist()
    assert moved == [4, 7]


@pytest.mark.parametrize("sparse", [True, False])
def test_clipped_to_a_norm(sparse):
    ours = run(lambda p: LazyAdam(p, lr=0.1, eps=1.0, clip=0.5), sparse)
    if sparse:
        table = tables(True)
        optimizer = LazyAdam(table.parameters(), clip=0.5)
        (table(torch.tensor([1, 1, 2])) * 9).sum().backward()
        optimizer.step()
        assert float(table.weight.grad.coalesce().values().norm()) == pytest.approx(0.5)
    else:
        torch.testing.assert_close(ours, run(lambda p: torch.optim.Adam(p, lr=0.1, eps=1.0), False, clip=0.5))


def test_state_goes_on_after_loading():
    table = tables(True)
    first = LazyAdam(table.parameters(), lr=0.1)
    table(torch.tensor([1, 2])).square().sum().backward()
    first.step()
    second = LazyAdam(table.parameters(), lr=0.1)
    second.load_state_dict(deepcopy(first.state_dict()))
    weights = table.weight.detach().clone()
    results = []
    for optimizer in (first, second):
        with torch.no_grad():
            table.weight.copy_(weights)
        optimizer.step()
        results.append(table.weight.detach().clone())
    torch.testing.assert_close(*results, rtol=0, atol=0)
