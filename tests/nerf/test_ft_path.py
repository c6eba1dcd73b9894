"""A run that starts from the checkpoint of another."""

import pytest
import torch
from nerf.runs import weights

from nerf_dfa.nerf import train
from nerf_dfa.nerf.presets import learning
from nerf_dfa.training.checkpoints import load_checkpoint

# One step further, and that of no size.
STILL = ["--N_iters", "7", "--lrate", "1e-30"]


def test_ft_path_starts_from_a_checkpoint(flags, run, tmp_path):
    assert train.main(flags) == 0
    assert train.main([*flags, "--expname", "more", "--ft_path", str(run / "000006.tar"), *STILL]) == 0
    a, b = weights(run / "000006.tar"), weights(tmp_path / "runs" / "more" / "000007.tar")
    assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize(("first", "then"), [("bp", "dfa-best"), ("dfa-best", "bp"), ("hdfa", "bp"), ("dkp", "dfa")])
def test_ft_path_starts_one_rule_from_anothers_weights(flags, run, tmp_path, first, then, capsys):
    assert train.main([*flags, *learning(first)]) == 0
    more = [*learning(then), "--expname", "more", "--ft_path", str(run / "000006.tar"), *STILL]
    assert train.main([*flags, *more]) == 0
    a, b = weights(run / "000006.tar"), weights(tmp_path / "runs" / "more" / "000007.tar")
    assert set(a) == set(b)  # what a rule holds is beside the weights
    assert all(torch.equal(a[name], b[name]) for name in a)
    # Where R is a parameter the optimiser knows it; that of hdfa is of another kind.
    assert "optimiser begins anew" in capsys.readouterr().out
    assert train.main([*flags, *more, "--N_iters", "8"]) == 0  # goes on, with the mirror that the checkpoint has


def test_a_checkpoint_that_leaves_nothing_to_train_is_refused(flags, run, capsys):
    assert train.main(flags) == 0
    assert train.main([*flags, "--expname", "more", "--ft_path", str(run / "000006.tar")]) == 2
    assert "--N_iters 6: " in capsys.readouterr().err
    more = [*flags, "--expname", "more", "--ft_path", str(run / "000006.tar"), "--render_only", "--frames", "1"]
    assert train.main(more) == 0


def test_ft_path_leaves_this_runs_rates_and_occupancy(flags, run, tmp_path):
    mlps = [flags.index(name) for name in ("--netdepth", "--netwidth", "--multires")]
    flags = [flag for place, flag in enumerate(flags) if place not in mlps and place - 1 not in mlps]
    grid = "--field grid --grid_min 4 --grid_max 8 --grid_levels 2 --occupancy 0".split()
    assert train.main([*flags, *grid, "--grid_lrate", "1e-1"]) == 0
    more = [*grid, "--expname", "more", "--ft_path", str(run / "000006.tar"), "--N_iters", "8"]
    assert train.main([*flags, *more, "--grid_lrate", "1e-3", "--occupancy", "8"]) == 0
    contents = load_checkpoint(tmp_path / "runs" / "more" / "000008.tar")
    assert {group["rate_scale"] for group in contents["optimizer_state_dict"]["param_groups"]} == {1.0, 0.1}
    assert contents["occupancy_state_dict"]["density"].any()
