"""The rays of a training step: from which pixels, and how many."""

import pytest
import torch

from nerf_dfa.nerf.flags import parse
from nerf_dfa.nerf.run import load_run_scene, scene_format
from nerf_dfa.nerf.train import LOOK_EVERY, make_trainer

FLAGS = (
    "--white_bkgd --field grid --grid_min 4 --grid_max 8 --grid_levels 2 --N_samples 8 --N_rand 64 --occupancy 8 "
    "--precision fp32 --device cpu"
).split()


@pytest.fixture
def made(tiny_scene):
    def make(*flags):
        options, _, _ = parse(["--datadir", str(tiny_scene), *FLAGS, *flags])
        scene = load_run_scene(options, scene_format(options))
        return make_trainer(options, scene, torch.device("cpu"))

    return make


def rays_of(trainer):
    return len(trainer.task.batch(1, torch.Generator()).colours)


@pytest.mark.parametrize(
    ("points", "occupied", "rays"),
    [
        (0, 1.0, 64),  # no limit
        (256, 1.0, 32),  # 32 rays of 8 samples
        (256, 0.5, 64),
        (256, 0.1, 64),  # never more than N_rand
        (8, 1.0, 4),  # nor less than a sixteenth
    ],
)
def test_fewer_rays_while_space_is_full(made, points, occupied, rays):
    trainer = made("--N_points", str(points))
    share = trainer.model.occupancy.occupied.view(-1)
    share[round(occupied * len(share)) :] = False
    assert rays_of(trainer) == rays


def test_their_number_changes_with_the_occupancy_and_at_no_other_step(made):
    trainer = made("--N_points", "256")
    assert rays_of(trainer) == 32
    trainer.model.occupancy.occupied.view(-1)[256:] = False
    assert rays_of(trainer) == 32
    trainer.finished = LOOK_EVERY
    assert rays_of(trainer) == 64
    assert trainer.task.rays_drawn == 128


def test_a_resumed_run_draws_as_many(made, tmp_path):
    whole = made("--N_points", "256")
    whole.run(LOOK_EVERY + 3)
    broken = made("--N_points", "256")
    broken.model.occupancy.occupied.view(-1)[100:] = False  # as if a look had found so much empty
    broken.finished = LOOK_EVERY
    broken.run(LOOK_EVERY + 3)
    path = broken.save(tmp_path)
    resumed = made("--N_points", "256")
    resumed.load(path)
    expected = broken.task.batch(1, torch.Generator())
    found = resumed.task.batch(1, torch.Generator())
    assert len(found.colours) == 64 != rays_of(whole)
    assert torch.equal(found.colours, expected.colours)


def test_the_scenes_images_are_not_copied(made):
    trainer = made()
    assert trainer.task.images.data_ptr() == trainer.task.scene.images.data_ptr()


def test_pixels_are_of_training_views_alone(made):
    trainer = made()
    scene = trainer.task.scene
    train = {tuple(round(x, 5) for x in scene.cameras.poses[i, :, 3].tolist()) for i in scene.split["train"]}
    rays = trainer.task.batch(1, torch.Generator()).rays
    assert {tuple(round(x, 5) for x in origin.tolist()) for origin in rays.origins} <= train
