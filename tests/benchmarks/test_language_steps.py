"""The benchmark of the Transformer's step, on a small one."""

import json

import pytest

pytest.importorskip("tokenizers", reason="pip install tokenizers")

from nerf_dfa.benchmarks.language import VARIANTS, main


def test_prints_one_object(capsys):
    sizes = "--layers 3 --heads 2 --width 16 --feed_forward 32 --vocabulary 300 --chunk 8 --batch 2 --rounds 1"
    assert main(sizes.split()) == 0
    made = json.loads(capsys.readouterr().out)
    assert set(made["step_ms"]) == set(VARIANTS)
    assert made["bp_step_over"]["bp"] == 1


def test_dfa_leaves_out_what_bp_needs(capsys):
    """The products of the decoder with the error, and of the projections to queries, keys and values but the first."""
    sizes = "--layers 3 --heads 2 --width 16 --feed_forward 32 --vocabulary 300 --chunk 8 --batch 2 --rounds 1"
    main(sizes.split())
    flops = json.loads(capsys.readouterr().out)["bp_flops_over"]
    rows, width, layers, vocabulary = 16, 16, 3, 300
    saved = 2 * rows * (vocabulary * width + (layers - 1) * 3 * width**2 - 256 * width)  # for hashed: less its own
    linear = 2 * rows * (layers * (4 * width**2 + 2 * width * 32) + vocabulary * width)
    attention = layers * 7 * 2 * (2 * 2 * 8 * 8 * 8)  # the fused kernel forward: 2 products, backward: 5
    assert flops["dfa macro, hashed"] == pytest.approx(
        (3 * linear + attention) / (3 * linear + attention - saved), 0.03
    )
    assert flops["dfa macro, uniform"] < flops["dfa macro, hashed"]
