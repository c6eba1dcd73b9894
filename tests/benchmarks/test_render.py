"""The render benchmark on a run of an untrained field: what it counts and compares."""

import json

import pytest
import torch

from nerf_dfa.benchmarks import render
from nerf_dfa.nerf.flags import parse
from nerf_dfa.nerf.model import inference_settings
from nerf_dfa.nerf.run import load_run, load_run_scene, write_args
from nerf_dfa.nerf.trainer import make_trainer
from nerf_dfa.rendering import OccupancyGrid, query


def save_run(folder, *flags):
    options, _, _ = parse([*flags, "--device", "cpu"])
    trainer = make_trainer(options, load_run_scene(options, "blender"), torch.device("cpu"))
    write_args(folder, options, "blender", None)
    trainer.save(folder)
    return folder


@pytest.fixture(scope="module")
def grid_run(tiny_scene, tiny_grid, tmp_path_factory):
    flags = ("--config", str(tiny_grid), "--datadir", str(tiny_scene))
    return save_run(tmp_path_factory.mktemp("runs") / "grid", *flags)


@pytest.fixture(scope="module")
def mlp_run(tiny_scene, tiny_mlp, tmp_path_factory):
    flags = ("--config", str(tiny_mlp), "--datadir", str(tiny_scene))
    return save_run(tmp_path_factory.mktemp("runs") / "mlp", *flags)


def result_of(capsys, *flags):
    assert render.main([*map(str, flags), "--device", "cpu"]) == 0
    return json.loads(capsys.readouterr().out)


def test_whole_frames_of_a_run_with_its_own_occupancy(grid_run, capsys, monkeypatch):
    monkeypatch.setattr(query, "ROWS", 1)  # of so small frames samples are mostly what fills them up
    result = result_of(capsys, grid_run, "--size", 12, "--views", 2)
    assert [row["view"] for row in result["per_view"]] == [0, 1]
    assert result["settings"]["resolution"] == [12, 12]
    for kind in ("skipping", "exhaustive"):
        assert set(result["mean"][kind]) == {"seconds_per_frame", "samples_per_ray", "psnr"}
    assert result["mean"]["exhaustive"]["samples_per_ray"] == 8
    # A field that has learned nothing is occupied everywhere: only rays that miss its box are spared.
    assert 0 < result["mean"]["skipping"]["samples_per_ray"] <= 8
    assert abs(result["psnr_lost_by_skipping"]) < 0.01
    assert result["occupancy"]["occupied_share"] == 1
    assert result["exhaustive_time_over_skipping"] > 0


def test_some_pixels_with_an_occupancy_made_anew(mlp_run, capsys):
    result = result_of(capsys, mlp_run, "--size", 12, "--views", 1, "--pixels", 20, "--occupancy", 4, "--rounds", 2)
    assert result["occupancy"]["resolution"] == 4
    assert result["occupancy"]["seconds_to_make"] > 0
    assert result["mean"]["exhaustive"]["samples_per_ray"] == 8 + 16  # the fine network sees the coarse samples too


def test_without_photographs_of_the_size_there_is_no_psnr(grid_run, capsys):
    result = result_of(capsys, grid_run, "--size", 24, "--views", 1, "--pixels", 10)
    assert result["settings"]["resolution"] == [24, 24]
    assert result["mean"]["skipping"]["psnr"] is None
    assert result["psnr_lost_by_skipping"] is None


def test_what_is_skipped_is_not_counted(grid_run):
    trained = load_run(grid_run, torch.device("cpu"))
    scene, cameras, _ = render.load_scene_at(trained.options, 12)
    view = render.View(trained.model, scene, cameras, 0, 0, trained.options)
    wider = trained.model.occupancy.box + torch.tensor([[-1.0], [1.0]])  # nothing of the field lies outside
    nothing = OccupancyGrid(wider, 4)
    nothing.occupied.fill_(False)
    settings = inference_settings(trained.options, torch.device("cpu"))
    rgb, numbers = view.render((nothing, settings))
    assert numbers["samples_per_ray"] == 0
    torch.testing.assert_close(rgb, torch.ones(144, 3))  # the background
    _, numbers = view.render((None, settings))
    assert numbers["samples_per_ray"] == 8


def test_the_frame_of_some_pixels_is_counted_in_proportion(grid_run, monkeypatch):
    trained = load_run(grid_run, torch.device("cpu"))
    scene, cameras, _ = render.load_scene_at(trained.options, 12)
    ticks = iter([0.0, 3.0])
    monkeypatch.setattr(render.time, "perf_counter", lambda: next(ticks))
    way = (None, inference_settings(trained.options, torch.device("cpu")))
    _, numbers = render.View(trained.model, scene, cameras, 0, 36, trained.options).render(way)
    assert numbers["seconds_per_frame"] == 3.0 * 144 / 36


def test_mistakes_are_one_line(mlp_run, tmp_path, capsys):
    for wrong in ([mlp_run, "--size", "12"], [tmp_path / "none"], [mlp_run, "--views", "0"]):
        assert render.main([*map(str, wrong), "--device", "cpu"]) == 2
        error = capsys.readouterr().err
        assert error.startswith("render: error: ")
        assert len(error.splitlines()) == 1
