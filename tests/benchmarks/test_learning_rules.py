"""The benchmark runs and says what it should; how fast things are is never asserted."""

import json

import torch

from nerf_dfa.benchmarks import learning_rules
from nerf_dfa.benchmarks.measure import peak_memory


def test_it_prints_one_json_object_with_every_variant(capsys):
    assert learning_rules.main("--layers 3 --width 16 --rows 64 --chunk 32 --rounds 1".split()) == 0
    result = json.loads(capsys.readouterr().out)
    expected = {"bp", "dfa", "fdfa, every 5th step, one chunk", "dfa, two passes", "dfa, binary"}
    assert expected <= set(result["bp_step_over"])
    assert result["bp_step_over"]["bp"] == 1
    assert result["settings"]["rows"] == 64
    assert all(value > 0 for value in result["step_ms"].values())


def test_two_passes_need_an_eighth_of_the_memory_at_32_layers():
    """Counted, not timed: the bytes that a step holds at a time."""
    steps = learning_rules.variants(32, 128, torch.randn(4096, 128), torch.randn(4096, 4), 4096)
    memory = {}
    for name in ("bp", "dfa", "dfa, two passes"):
        steps[name]()  # makes the gradients
        memory[name] = peak_memory(steps[name])
    assert memory["dfa, two passes"] <= memory["bp"] / 8
    assert memory["dfa"] <= memory["bp"]


def test_peak_memory_counts_what_is_held_at_a_time():
    def function():
        a = torch.zeros(1000, 1000)  # 4 MB
        for _ in range(3):
            torch.ones(500, 1000)  # 2 MB, given back at once
        return a

    assert 6e6 <= peak_memory(function) < 6.1e6
