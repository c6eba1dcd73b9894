"""Trained fields, rendered by several threads at a time."""

import pytest
import torch

from nerf_dfa.nerf.flags import parse
from nerf_dfa.nerf.presets import LEARNERS, learning
from nerf_dfa.nerf.run import load_run_scene, scene_format
from nerf_dfa.nerf.trainer import make_trainer
from nerf_dfa.rendering import Chunks, render_image

FIELDS = {
    "mlp": "--field mlp --netdepth 2 --netwidth 16 --multires 4 --use_viewdirs --N_importance 4".split(),
    "grid": "--field grid --grid_min 4 --grid_max 8 --grid_levels 2".split(),
}
SMALL = "--device cpu --precision fp32 --white_bkgd --N_samples 8 --N_rand 64 --lrate 1e-2 --occupancy 8".split()


@pytest.mark.parametrize("learner", LEARNERS)
@pytest.mark.parametrize("field", FIELDS)
def test_threads_make_the_same_picture(tiny_scene, field, learner):
    options = parse(["--datadir", str(tiny_scene), *SMALL, *FIELDS[field], *learning(learner)])[0]
    scene = load_run_scene(options, scene_format(options))
    trainer = make_trainer(options, scene, torch.device("cpu"))
    trainer.run(3)
    trainer.model.eval()
    _, cameras, _ = scene.views("test")
    cameras = cameras.resized(64, 32)
    threads, pictures = torch.get_num_threads(), []
    for number, size in ((1, 1024), (2, 2048)):  # the same rays in a chunk
        torch.set_num_threads(number)
        pictures.append(
            render_image(
                trainer.model, cameras, 0, scene.near, scene.far, trainer.task.inference, scene.ndc, Chunks(size)
            )
        )
    torch.set_num_threads(threads)
    for one, other in zip(*pictures, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
    assert pictures[0].rgb.std() > 0
