"""Rates against their formulas and torch's own, steps against the optimisers' equations."""

import pytest
import torch
from torch import nn

from nerf_dfa.language.optimizers import Plateau, make_optimizer, warmup


def test_warmup_is_the_formula():
    rate = warmup(2.0, 512, 4000)
    for step in (1, 10, 3999, 4000, 4001, 100000):
        assert rate(step - 1) == pytest.approx(2 * 512**-0.5 * min(step**-0.5, step * 4000**-1.5), rel=1e-12)
    assert rate(3999) == pytest.approx(2 * (512 * 4000) ** -0.5)
    assert max(rate(step) for step in range(20000)) == rate(3999)


@pytest.mark.parametrize("patience", [0, 1, 3])
def test_plateau_is_torchs(patience):
    scores = [5.0, 4.0, 4.5, 4.2, 4.1, 3.9, 3.9, 3.8, 4.0, 4.0, 4.0, 4.0, 4.0, 3.7, 3.8]
    ours = Plateau(1.0, 0.2, patience)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], 1.0)
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.2, patience=patience, threshold=0)
    for score in scores:
        ours.observe(score)
        theirs.step(score)
        assert ours(0) == pytest.approx(optimizer.param_groups[0]["lr"])
    again = Plateau(7.0)
    again.load(ours.state())
    assert again.state() == ours.state()


def test_clipping_bounds_the_network_alone():
    network, feedback = nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(2))
    optimizer = make_optimizer("adam", [{"params": [network, feedback]}], 0.98, 0.5, [network])
    network.grad, feedback.grad = torch.tensor([3.0, 0, 4]), torch.tensor([10.0, 0])
    optimizer.step()
    torch.testing.assert_close(network.grad, torch.tensor([0.3, 0, 0.4]))
    assert feedback.grad.tolist() == [10.0, 0]


@pytest.mark.parametrize("kind", ["adam", "radam"])
def test_steps_by_hand(kind):
    """Adam (Kingma and Ba), RAdam (Liu et al., algorithm 2), in plain numbers."""
    beta1, beta2, rate, x, m, v = 0.9, 0.98, 0.01, 1.0, 0.0, 0.0
    parameter = nn.Parameter(torch.tensor([1.0], dtype=torch.float64))
    optimizer = make_optimizer(kind, [{"params": [parameter]}], beta2, 0.0, [parameter])
    optimizer.param_groups[0]["lr"] = rate
    longest = 2 / (1 - beta2) - 1
    for t in range(1, 12):
        gradient = 0.3 + 0.1 * t
        m, v = beta1 * m + (1 - beta1) * gradient, beta2 * v + (1 - beta2) * gradient**2
        mean, size = m / (1 - beta1**t), (v / (1 - beta2**t)) ** 0.5
        length = longest - 2 * t * beta2**t / (1 - beta2**t)
        if kind == "adam":
            x -= rate * mean / (size + 1e-8)
        elif length > 5:
            r = (length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length)
            x -= rate * mean * r**0.5 / size
        else:
            x -= rate * mean
        parameter.grad = torch.tensor([gradient], dtype=torch.float64)
        optimizer.step()
        assert parameter.item() == pytest.approx(x, rel=1e-6)
