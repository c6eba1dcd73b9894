"""Measuring which precision is faster leaves no trace: how often it looks is a matter of time."""

import pytest
import torch

from nerf_dfa.nerf import model
from nerf_dfa.nerf.flags import parse
from nerf_dfa.nerf.model import measured_precision


@pytest.mark.parametrize("field", ["mlp", "grid"])
def test_random_numbers_go_on_as_if_nothing_had_been_measured(field):
    """Of a rule that draws noise in its passes."""
    options, _, _ = parse(["--preset", "dfa-best", "--field", field, "--N_rand", "4"])
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    assert measured_precision(options, torch.device("cpu")) in ("fp32", "bf16")
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize(("flags", "points"), [("--N_rand 8 --N_samples 16 --N_importance 4", 160), ("", 4096)])
def test_it_is_measured_on_as_many_points_as_a_step_has(monkeypatch, flags, points):
    seen = []
    monkeypatch.setattr(model, "faster_precision", lambda work, device: [work(), "fp32"][1])
    raw = model.MLPField.raw
    monkeypatch.setattr(model.MLPField, "raw", lambda self, x, d: seen.append(len(x)) or raw(self, x, d))
    options, _, _ = parse(["--netdepth", "2", "--netwidth", "8", *flags.split()])
    measured_precision(options, torch.device("cpu"))
    assert seen == [points]
