"""Seconds to a PSNR, on a clock that the test sets, and the PSNR against one computed view by view."""

import json
import math

import numpy as np
import pytest
import torch

from nerf_dfa.benchmarks import time_to_quality as benchmark
from nerf_dfa.errors import UserError
from nerf_dfa.nerf.flags import parse
from nerf_dfa.nerf.run import load_run_scene
from nerf_dfa.nerf.task import RayBatch
from nerf_dfa.nerf.trainer import make_trainer
from nerf_dfa.rendering import Rays, render_image
from nerf_dfa.training import Trainer


@pytest.fixture
def flags(tiny_scene, tiny_grid):
    return ["--config", str(tiny_grid), "--datadir", str(tiny_scene), "--device", "cpu"]


def test_it_prints_one_json_object_with_a_curve_for_each_rule(flags, capsys):
    ours = "--rules bp dfa-best --limit 0.2 --interval 0.1 --pixels 50 --targets 1 90".split()
    assert benchmark.main([*ours, *flags, "--N_rand", "8"]) == 0
    out, err = capsys.readouterr()
    result = json.loads(out)
    assert list(result["rules"]) == ["bp", "dfa-best"]
    for row in result["rules"].values():
        assert len(row["curve"]) == 2
        assert row["seconds_to"]["90"] is None
        assert row["seconds_to"]["1"] == pytest.approx(row["curve"][0][0], abs=1e-3)
        assert row["steps"] == row["curve"][-1][1] > row["steps_to"]["1"]
        assert row["final_psnr"] == row["curve"][-1][2]
    assert result["seconds_over_first_rule"]["bp"] == {"1": 1, "90": None}
    assert "N_rand = 8" in result["settings"]["options"]
    assert len(err.splitlines()) == 4


def test_mistakes_are_one_line(flags, capsys):
    for wrong in ("--learning_rule dfa", "--preset=paper", "--interval 0", "--netwidth 8", "--nonsense"):
        assert benchmark.main([*flags, *wrong.split()]) == 2
        assert capsys.readouterr().err.startswith("time_to_quality: error: ")


def test_the_psnr_is_that_of_whole_views_where_all_pixels_are_drawn(flags, tiny_scene):
    options, _, _ = parse(flags)
    scene = load_run_scene(options, "blender")
    trainer = make_trainer(options, scene, torch.device("cpu"))
    pixels = benchmark.pixels_of_test_views(scene, 4000, True, torch.device("cpu"))
    errors = []
    images, cameras, _ = scene.views("test")
    for view in range(len(cameras)):
        image = render_image(trainer.model, cameras, view, scene.near, scene.far, trainer.task.inference)
        rgba = images[view].numpy() / 255
        truth = rgba[..., :3] * rgba[..., 3:] + 1 - rgba[..., 3:]
        errors.append(((image.rgb.numpy() - truth) ** 2).mean())
    assert benchmark.pixels_psnr(trainer, pixels) == pytest.approx(-10 * np.log10(np.mean(errors)), abs=0.3)
    again = benchmark.pixels_of_test_views(scene, 4000, True, torch.device("cpu"))
    assert torch.equal(pixels.colours, again.colours)


class Clockwork(Trainer):
    """A trainer whose steps take 0.4 s each on its clock, and do nothing."""

    def __init__(self):
        self.seconds, self.finished = 0.0, 0

    def run(self, steps):
        self.seconds += 0.4 * (steps - self.finished)
        self.finished = steps
        return True


def test_the_race_goes_by_the_trainers_clock(monkeypatch):
    monkeypatch.setattr(benchmark, "pixels_psnr", lambda trainer, _: 10.0 + trainer.finished)
    pixels = RayBatch(Rays(*(torch.zeros(1, 3) for _ in range(3)), *torch.zeros(2, 1)), torch.zeros(1, 3))
    contender = benchmark.Contender("bp", Clockwork())
    benchmark.race([contender], pixels, limit=2.5, interval=1.0)
    assert [(round(p.seconds, 1), p.steps) for p in contender.curve] == [(1.2, 3), (2.0, 5), (2.8, 7)]
    row = benchmark.result_of(contender, [13.0, 14.0, 20.0])
    assert row["seconds_to"] == pytest.approx({"13": 1.2, "14": 2.0, "20": None}, abs=1e-3)
    assert row["steps_to"] == {"13": 3, "14": 5, "20": None}
    assert row["final_psnr"] == 17


def test_a_gpu_waits_a_few_times_and_not_after_every_step():
    trainer, bunches = Clockwork(), []
    run = trainer.run
    trainer.run = lambda steps: bunches.append(steps - trainer.finished) or run(steps)
    assert benchmark.train_until(trainer, 400.0)
    assert sum(bunches) == trainer.finished == pytest.approx(1000, abs=1)  # sums of 0.4
    assert len(bunches) < 25
    assert bunches[:4] == [1, 2, 4, 8]


def test_a_field_that_diverged_has_no_psnr():
    contender = benchmark.Contender("bp", Clockwork(), [benchmark.Point(1.0, 2, -math.inf)])
    assert benchmark.result_of(contender, [1.0])["final_psnr"] is None


def test_a_scene_without_test_views_is_refused(flags):
    scene = load_run_scene(parse(flags)[0], "blender")
    scene.split["test"] = ()
    with pytest.raises(UserError, match="no test views"):
        benchmark.pixels_of_test_views(scene, 10, True, torch.device("cpu"))
