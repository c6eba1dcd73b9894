"""A small study, and what may happen to its runs, for tests."""

import json

from nerf_dfa.experiments import cells
from nerf_dfa.nerf.collapse import Collapsed

STUDY = """
[study]
title = A trial
seeds = 2
figure = {figure}
flags = --N_iters 6 --N_rand 32 --N_samples 8 --precision fp32 # of all

[column mlp]
scene = lego
flags = --datadir {scene} --white_bkgd --netdepth 2 --netwidth 16 --multires 4 --N_importance 4 --netdepth_fine 2 --netwidth_fine 8
[column grid]
flags = --datadir {scene} --white_bkgd --field grid --grid_min 4 --grid_max 8 --grid_levels 2

[row bp]
flags = --learning_rule bp
[row dfa]
flags = --learning_rule dfa --i_alignment 1
[row best]
only = grid
flags = --preset dfa-best
"""  # noqa: E501


def results(tmp_path):
    return json.loads((tmp_path / "out" / "trial.json").read_text())["runs"]


def collapsing_from(lrate, monkeypatch):
    """From this learning rate on every run collapses at every initialisation."""
    make = cells.make_trainer

    def collapsing(options, scene, device, attempt=0, seconds=0.0):
        trainer = make(options, scene, device, attempt, seconds)

        def fail(progress):
            raise Collapsed(progress.step)

        if options.lrate >= lrate:
            trainer.every(1, fail)
        return trainer

    monkeypatch.setattr(cells, "make_trainer", collapsing)
