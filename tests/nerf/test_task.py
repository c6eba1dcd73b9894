"""The rays of a training step: from which pixels, and how many."""

import warnings
from pathlib import Path

import pytest
import torch

from nerf_dfa.errors import UserCaution
from nerf_dfa.learning import RULES
from nerf_dfa.nerf import trainer as making
from nerf_dfa.nerf.flags import parse
from nerf_dfa.nerf.model import ENDS_KEY, POSES_KEY, compare_cameras, training_poses
from nerf_dfa.nerf.presets import PRESETS
from nerf_dfa.nerf.run import load_run_scene, scene_format
from nerf_dfa.nerf.trainer import LOOK_AFTER, LOOK_EVERY, LOOK_EVERYWHERE, make_trainer
from nerf_dfa.rendering import render_rays

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


def same_networks(made, *flags):
    """Trainers of drtp and of dfa with the same weights and the same feedback."""
    target, direct = made("--learning_rule", "drtp", *flags), made("--learning_rule", "dfa", *flags)
    direct.model.load_state_dict(target.model.state_dict())
    return target, direct


def gradients(trainer, loss):
    trainer.model.zero_grad()
    loss.backward()
    return {name: p.grad for name, p in trainer.model.named_parameters() if p.grad is not None}


FINE_MLP = (
    "--field mlp --occupancy 0 --N_importance 4 --use_viewdirs --netwidth 8 --netwidth_fine 8 --netdepth 3".split()
)


@pytest.mark.parametrize("flags", [[], ["--netchunk", "128"], FINE_MLP, [*FINE_MLP, "--netchunk", "100"]])
def test_targets_teach_hidden_layers_what_a_field_of_the_mean_colour_would_learn(made, flags):
    target, direct = same_networks(made, *flags)
    batch = target.task.batch(1, torch.Generator().manual_seed(0))
    mean = batch.colours.mean(0)
    rendered = render_rays(direct.model, batch.rays, direct.task.training)
    pixels = [pixel.rgb for pixel in rendered if pixel is not None]
    hidden = gradients(direct, sum((2 * (mean - batch.colours) * rgb).mean() for rgb in pixels))
    heads = gradients(direct, direct.task.loss(direct.model, batch, None)[0])
    top = {p for field in direct.model.fields.values() for head in field.heads() for p in head.parameters()}
    names = {name for name, p in direct.model.named_parameters() if p in top}
    got = gradients(target, target.task.loss(target.model, batch, None)[0])
    assert got.keys() == hidden.keys() == heads.keys()
    for name, gradient in got.items():
        torch.testing.assert_close(gradient, (heads if name in names else hidden)[name], rtol=1e-4, atol=1e-8)


def test_the_alignment_of_targets_is_measured_and_the_fields_go_on(made):
    trainer = made("--learning_rule", "drtp")
    layers = trainer.task.alignment(trainer.model).layers
    assert [layer.samples > 0 for layer in layers.values()] == [True] * 3
    trainer.run(2)


@pytest.mark.parametrize(("most", "looks"), [(512, [512, 512, 128]), (64, [512, 64, 16])])
def test_the_occupancy_looks_everywhere_then_here_and_there_and_at_no_more_cells_than_it_may(
    made, monkeypatch, most, looks
):
    """Of a grid of 8 a side: at the first look, at the next, and later on."""
    monkeypatch.setattr(making, "LOOK_CELLS", most)
    trainer = made()
    asked, density = [], trainer.model.density
    monkeypatch.setattr(trainer.model, "density", lambda points: asked.append(len(points)) or density(points))
    first = LOOK_EVERY * (LOOK_AFTER // LOOK_EVERY + 1)
    for step in (first, first + LOOK_EVERY, LOOK_EVERY * (LOOK_EVERYWHERE // LOOK_EVERY + 1)):
        trainer.finished = step - 1
        trainer.step()
    assert asked == looks


@pytest.mark.parametrize("ends", [True, False])
def test_whether_rays_end_in_the_dark_is_kept_with_a_run(made, tmp_path, ends):
    trainer, resumed = made(), made()
    trainer.model.ends, resumed.model.ends = ends, not ends
    resumed.load(trainer.save(tmp_path))
    assert resumed.model.ends == ends


def test_rays_do_not_end_while_most_samples_are_lit(made):
    trainer = made()
    trainer.step()  # fog
    trainer.model.settle()
    assert not trainer.model.ends
    trainer.model.coarse.density_head.bias.data.fill_(1e3)  # as dense as can be: the first sample takes all light
    trainer.step()
    trainer.model.settle()
    assert trainer.model.ends
    trainer.step()
    trainer.model.settle()
    assert trainer.model.ends  # by what they would have seen, not by what is left


GRID_FINE = "--N_importance 4 --density_activation exp".split()


@pytest.mark.parametrize("flags", [[], GRID_FINE, [*FINE_MLP, "--occupancy", "8"]], ids=["grid", "fine grid", "mlp"])
@pytest.mark.parametrize("learner", [*RULES, *PRESETS])
def test_every_rule_learns_from_rays_that_end_in_the_dark(made, learner, flags):
    named = ["--learning_rule", learner] if learner in RULES else ["--preset", learner]
    trainer = made(*flags, *named)
    trainer.run(2)
    trainer.model.ends = True
    before = [p.detach().clone() for p in trainer.model.parameters()]
    for _ in range(3):
        loss, _ = trainer.task.loss(trainer.model, trainer.task.batch(1, trainer.generator), trainer.generator)
        assert loss.isfinite()
        trainer.step()
    assert trainer.model.ends
    assert all(p.isfinite().all() for p in trainer.model.parameters())
    assert any(not torch.equal(p, old) for p, old in zip(trainer.model.parameters(), before, strict=True))
    layers = trainer.task.alignment(trainer.model).layers
    assert all(layer.samples + layer.undefined > 0 for layer in layers.values())


def test_alignment_is_of_the_samples_that_learning_is_of(made):
    trainer = made("--learning_rule", "dfa", "--N_samples", "64")
    trainer.model.coarse.density_head.bias.data.fill_(1e3)  # the first sample takes all light

    def points():
        layers = trainer.task.alignment(trainer.model).layers.values()
        return {layer.samples + layer.undefined for layer in layers}

    every = points()
    trainer.model.ends = True
    lit = points()
    assert len(every) == len(lit) == 1
    assert max(lit) < 0.5 * max(every)


@pytest.mark.parametrize("dense", ["coarse", "fine"])
def test_light_counts_that_comes_to_the_samples_of_both_networks(made, dense):
    """8 coarse samples a ray and 12 fine ones, of an opaque network and of a fog."""
    trainer = made("--N_importance", "4")
    for name, field in trainer.model.fields.items():
        field.density_head.bias.data.fill_(1e3 if name == dense else -1e3)
    trainer.task.loss(trainer.model, trainer.task.batch(1, torch.Generator()), torch.Generator())
    trainer.model.settle()
    assert trainer.model.ends == (dense == "fine")  # of 20 samples about 13 are lit, or about 9


@pytest.mark.parametrize(
    ("poses", "alike"),
    [
        (None, True),
        (lambda now: now, True),
        (lambda now: now.double() + 1e-5, True),
        (lambda now: now + 0.1, False),
        (lambda now: now[:-1], False),
        (lambda now: now.tolist(), False),
        (lambda now: "rubbish", False),
    ],
)
def test_a_checkpoint_of_other_cameras_is_said_to_be_one(made, poses, alike):
    scene = made().task.scene
    given = None if poses is None else poses(training_poses(scene))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        compare_cameras(given, scene, Path("a.tar"))
    assert (
        [str(w.message) for w in caught if w.category is UserCaution] == []
        if alike
        else [f"a.tar was trained on other cameras than those of {scene.name}: is this the scene?"]
    )


def test_checkpoints_of_before_say_nothing_and_load(made, tmp_path):
    trainer, resumed = made(), made()
    path = trainer.save(tmp_path)
    contents = torch.load(path, weights_only=True)
    del contents[POSES_KEY], contents[ENDS_KEY]
    torch.save(contents, path)
    resumed.model.ends = True
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        resumed.load(path)
    assert not resumed.model.ends
