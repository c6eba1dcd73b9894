"""Tiny runs of train.py, for tests."""

from pathlib import Path

from nerf_dfa.training.checkpoints import load_checkpoint

SMALL = (
    "--white_bkgd --netdepth 2 --netwidth 16 --multires 4 --N_samples 8 --N_rand 32 --N_iters 6 --i_weights 4 "
    "--i_print 2 --i_img 3 --frames 2 --lrate 1e-2 --device cpu --precision fp32"
).split()


def weights(path: Path) -> dict:
    return load_checkpoint(path)["network_fn_state_dict"]


def one_line(capsys, program="train.py") -> str:
    text = capsys.readouterr().err.strip().splitlines()
    assert len(text) == 1, text
    assert text[0].startswith(f"{program}: error: ")
    return text[0]
