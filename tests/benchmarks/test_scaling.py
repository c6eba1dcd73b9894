"""Slopes of laws that are known, the ball against rays cast by hand, and the JSON."""

import json

import numpy as np
import pytest

from nerf_dfa.benchmarks import scaling
from nerf_dfa.benchmarks.measure import loglog_slope

TINY = "--rays 4 8 --samples 2 4 --width 8 16 --images 2 3 --size 4 8 --steps 1 --rounds 1 --device cpu".split()


@pytest.mark.parametrize("power", [0.0, 1.0, 2.5])
def test_the_slope_is_the_exponent(power):
    x = [1, 2, 5, 30]
    assert loglog_slope(x, [3 * v**power for v in x]) == pytest.approx(power)


def test_the_slope_is_numpys_least_squares():
    x, y = np.array([1, 3, 4, 9.0]), np.array([2, 1, 8, 7.0])
    assert loglog_slope(x.tolist(), y.tolist()) == pytest.approx(np.polyfit(np.log(x), np.log(y), 1)[0])


@pytest.mark.parametrize("field", ["mlp", "grid"])
def test_it_prints_one_json_object_with_every_quantity(field, capsys):
    assert scaling.main([*TINY, "--field", field]) == 0
    result = json.loads(capsys.readouterr().out)
    assert list(result["scaling"]) == ["rays", "samples", "width", "images", "size"]
    assert result["settings"]["base"] == {"rays": 8, "samples": 4, "width": 16, "images": 3, "size": 8}
    for row in result["scaling"].values():
        assert len(row["values"]) == len(row["step_ms"]) == 2
        assert row["over_base"][1] == 1
        assert row["loglog_slope"] == pytest.approx(np.log2(row["step_ms"][1] / row["step_ms"][0])
                                                    / np.log2(row["values"][1] / row["values"][0]))  # fmt: skip


def test_each_quantity_is_varied_alone():
    base, settings = scaling.settings_to_measure({"rays": (1, 2, 3), "size": (7,)})
    assert base == {"rays": 2, "size": 7}
    assert settings[("rays", 3)] == {"rays": 3, "size": 7}
    assert settings[("size", 7)] == base
    options = scaling.make_options("grid", "bp", 3, 5, 7, "fp32")
    assert (options.N_rand, options.N_samples, options.grid_width, options.occupancy) == (3, 5, 7, 0)


def test_the_ball_is_where_a_march_along_the_ray_meets_it():
    size, radius = 9, 1.0
    scene = scaling.ball_scene(2, size, radius)
    focal = size / 2 / np.tan(scaling.CAMERA_ANGLE_X / 2)
    for view in range(2):
        pose = scene.cameras.poses[view].double().numpy()
        for row in range(size):
            for column in range(size):
                camera = np.array([(column + 0.5 - size / 2) / focal, -(row + 0.5 - size / 2) / focal, -1])
                along = np.linspace(2, 6, 40_001)[:, None] * (pose[:, :3] @ camera / np.linalg.norm(camera))
                points = pose[:, 3] + along
                inside = np.linalg.norm(points, axis=1) <= radius
                rgba = scene.images[view, row, column].numpy()
                assert (rgba[3] == 255) == inside.any()
                if inside.any():
                    colour = (points[inside.argmax()] / radius + 1) / 2 * 255
                    assert np.abs(rgba[:3] - colour).max() < 1.5


def test_a_value_of_zero_is_one_line(capsys):
    assert scaling.main(["--rays", "0"]) == 2
    assert capsys.readouterr().err == "scaling: error: --rays 0: expected at least 1\n"
