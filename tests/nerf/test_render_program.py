"""render.py on a tiny run: views, videos, poses and scores."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from nerf.runs import SMALL, one_line
from PIL import Image

from nerf_dfa.nerf import render, train
from nerf_dfa.nerf.run import load_run
from nerf_dfa.scenes.procedural import write_demo


@pytest.fixture(scope="module")
def trained(tiny_scene, tmp_path_factory):
    """A run with a coarse and a fine network."""
    base = tmp_path_factory.mktemp("runs")
    flags = ["--datadir", str(tiny_scene), "--basedir", str(base), "--expname", "both", "--N_importance", "4", *SMALL]
    assert train.main([*flags, "--netdepth_fine", "2", "--netwidth_fine", "16"]) == 0
    return base / "both"


def test_the_test_views_are_rendered_as_train_did(trained, tmp_path, capsys):
    assert render.main(["--run", str(trained), "--out", str(tmp_path)]) == 0
    for i in range(2):
        name = Path("testset_000006") / f"{i:03d}.png"
        assert (tmp_path / name).read_bytes() == (trained / name).read_bytes()
    ours, theirs = (json.loads((p / "metrics.json").read_text()) for p in (tmp_path, trained))
    assert ours["psnr"] == theirs["psnr"]
    assert ours["seconds"] == theirs["seconds"] > 0
    assert re.search(r"PSNR \d+\.\d\d dB over 2 test views", capsys.readouterr().out)


def test_another_scene_is_said_to_be_another(trained, tiny_scene, tmp_path, capsys):
    moved, other = tmp_path / "moved", tmp_path / "other"
    shutil.copytree(tiny_scene, moved)
    write_demo(other, image_size=12, train_views=5, val_views=2, test_views=2)
    arguments = ["--run", str(trained), "--out", str(tmp_path / "out"), "--testskip", "2"]
    for scene in (moved, other):
        assert render.main([*arguments, "--datadir", str(scene)]) == 0
        error = capsys.readouterr().err
        assert ("render.py: warning: " in error) == ("trained on other cameras" in error) == (scene == other)
    flags = ["--basedir", str(trained.parent), "--expname", "both", "--N_importance", "4", *SMALL, "--render_only"]
    fine = ["--netdepth_fine", "2", "--netwidth_fine", "16"]
    assert train.main([*flags, *fine, "--render_test", "--datadir", str(other)]) == 0
    assert "train.py: warning: " in capsys.readouterr().err
    assert train.main([*flags, *fine, "--render_test", "--datadir", str(tiny_scene)]) == 0  # its own report again
    assert "warning" not in capsys.readouterr().err


def test_chunks_do_not_change_the_picture(trained, tmp_path):
    assert render.main(["--run", str(trained), "--out", str(tmp_path), "--chunk", "7", "--netchunk", "20"]) == 0
    a = np.asarray(Image.open(tmp_path / "testset_000006" / "000.png"), dtype=int)
    b = np.asarray(Image.open(trained / "testset_000006" / "000.png"), dtype=int)
    assert np.abs(a - b).max() <= 1


@pytest.mark.parametrize("path", ["circle", "test"])
def test_paths_become_videos(trained, tmp_path, path):
    frames = [] if path == "test" else ["--frames", "3"]
    arguments = ["--run", str(trained), "--out", str(tmp_path), "--path", path, "--fps", "5", *frames]
    assert render.main([*arguments, "--render_factor", "2"]) == 0
    stem = f"both_{path}_000006"
    assert len(list((tmp_path / stem).glob("*.png"))) == (2 if path == "test" else 3)
    assert Image.open(tmp_path / stem / "000.png").size == (6, 6)
    assert (tmp_path / f"{stem}_rgb.mp4").stat().st_size > 0


def test_a_pose_given_three_ways_is_the_same_view(trained, tmp_path):
    model = json.loads(
        (Path(load_run(trained, torch.device("cpu")).options.datadir) / "transforms_test.json").read_text()
    )
    matrix = model["frames"][1]["transform_matrix"]
    text = ",".join(str(v) for row in matrix for v in row)
    (tmp_path / "pose.txt").write_text("\n".join(" ".join(map(str, row)) for row in matrix[:3]))
    for pose in (text, str(tmp_path / "pose.txt")):
        assert render.main(["--run", str(trained), "--out", str(tmp_path), f"--pose={pose}"]) == 0
    views = [tmp_path / "pose_000006" / "000.png", tmp_path / "pose_000006_1" / "000.png"]
    expected = (trained / "testset_000006" / "001.png").read_bytes()
    assert [v.read_bytes() for v in views] == [expected, expected]


def test_a_shorter_video_leaves_nothing_of_a_longer_one(trained, tmp_path):
    for frames in ("4", "2"):
        arguments = ["--run", str(trained), "--out", str(tmp_path), "--path", "circle", "--frames", frames]
        assert render.main(arguments) == 0
    for folder in (tmp_path / "both_circle_000006", tmp_path / "both_circle_000006" / "depth"):
        assert sorted(p.name for p in folder.glob("*.png")) == ["000.png", "001.png"]


def test_several_poses_are_several_views(trained, tmp_path):
    assert render.main(["--run", str(trained), "--out", str(tmp_path), "--pose", "-30,25,4", "--pose", "60,25,4"]) == 0
    table = json.loads((tmp_path / "pose_000006" / "poses.json").read_text())
    assert [view["pose"] for view in table.values()] == ["-30,25,4", "60,25,4"]
    for name, view in table.items():
        pose = " ".join(str(x) for row in view["camera_to_world"] for x in row)
        assert render.main(["--run", str(trained), "--out", str(tmp_path / name), "--pose", pose]) == 0
        again = tmp_path / name / "pose_000006" / "000.png"
        assert again.read_bytes() == (tmp_path / "pose_000006" / name).read_bytes()


def test_test_views_are_whole_whatever_the_size_of_the_runs_videos(trained, tmp_path):
    small = tmp_path / "small"
    shutil.copytree(trained, small)
    text = (small / "args.txt").read_text()
    (small / "args.txt").write_text(text.replace("render_factor = 1", "render_factor = 2"))
    assert render.main(["--run", str(small)]) == 0
    name = Path("testset_000006") / "000.png"
    assert (small / name).read_bytes() == (trained / name).read_bytes()
    assert render.main(["--run", str(small), "--render_factor", "2"]) == 0
    assert Image.open(small / "testset_000006_render_factor_2" / "000.png").size == (6, 6)
    assert (small / name).read_bytes() == (trained / name).read_bytes()


def test_every_nth_test_view_of_whatever_format(trained, tmp_path, monkeypatch):
    monkeypatch.setattr("nerf_dfa.nerf.run.scene_flags", lambda dataset_type: set())
    assert render.main(["--run", str(trained), "--out", str(tmp_path), "--testskip", "2"]) == 0
    assert [p.name for p in (tmp_path / "testset_000006_testskip_2").glob("*.png")] == ["000.png"]


def test_a_pose_may_begin_with_a_minus(trained, tmp_path):
    for number, arguments in enumerate((["--pose", "-30,25,4"], ["--pose=330,25,4"])):
        assert render.main(["--run", str(trained), "--out", str(tmp_path / str(number)), *arguments]) == 0
    views = [np.asarray(Image.open(tmp_path / str(i) / "pose_000006" / "000.png"), dtype=int) for i in range(2)]
    assert np.abs(views[0] - views[1]).max() <= 1


@pytest.mark.parametrize("factor", ["1", "4"])  # 12 pixels wide, and 3, whose middle one looks along the axis
@pytest.mark.parametrize(
    ("pose", "seen"),
    [
        ("1 0 0 0 0 1 0 0 0 0 1 0", True),
        ("1 0 0 0 0 0 -1 0 0 1 0 0", False),  # up
        ("-1 0 0 0 0 1 0 0 0 0 -1 0", False),  # back
    ],
)
def test_a_pose_in_normalised_device_coordinates_has_to_look_forward(
    trained, tmp_path, capsys, monkeypatch, pose, seen, factor
):
    load = render.load_run_scene
    monkeypatch.setattr(render, "load_run_scene", lambda *a: replace(load(*a), ndc=True, near=0.0, far=1.0))
    status = render.main(["--run", str(trained), "--out", str(tmp_path), "--pose", pose, "--render_factor", factor])
    assert status == (0 if seen else 2)
    if not seen:
        assert "only as seen along -z" in one_line(capsys, "render.py")


def test_an_occupancy_can_be_made_for_a_run_without(trained, tmp_path):
    scores = {}
    for resolution in ("0", "24"):
        out = tmp_path / resolution
        assert render.main(["--run", str(trained), "--out", str(out), "--occupancy", resolution]) == 0
        scores[resolution] = json.loads(next(out.glob("metrics*.json")).read_text())["psnr"]
    assert scores["24"] == pytest.approx(scores["0"], abs=0.05)


def test_fewer_fine_samples_are_a_choice_of_rendering(trained, tmp_path, capsys):
    flags = ["--run", str(trained), "--out", str(tmp_path), "--N_importance"]
    assert render.main([*flags, "3"]) == 0
    assert (tmp_path / "metrics_N_importance_3.json").is_file()
    assert render.main([*flags, "0"]) == 2
    assert "--N_importance 0" in capsys.readouterr().err


def test_dual_renders_beside_the_plain_views(trained, tmp_path):
    assert render.main(["--run", str(trained), "--out", str(tmp_path), "--dual"]) == 0
    assert render.main(["--run", str(trained), "--out", str(tmp_path), "--dual", "raw"]) == 0
    assert json.loads((tmp_path / "metrics_dual_pixels.json").read_text())["dual"] is True
    assert (tmp_path / "testset_000006_dual_raw" / "001.png").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--run", "/nowhere"], "no run folder /nowhere"),
        (["--step", "5"], "has no checkpoint of step 5; it has 4, 6"),
        (["--frames", "3"], "--frames has no effect without --path"),
        (["--path", "test", "--frames", "3"], "--frames has no effect with --path test"),
        (["--pose", "1,2"], "2 numbers"),
        (["--pose", "nowhere.txt"], "neither numbers nor a text file of them"),
        (["--pose", ",".join(["1"] * 12)], "not a rotation"),
        (["--pose", "0,95,4"], "elevation lies between"),
        (["--pose", "0,89.99999,4"], "straight up or down"),
        (["--path", "spiral", "--frames", "3"], "captured from all around"),
        (["--pose", "0,30,inf"], "have to be finite"),
        (["--pose", "1 0 0 0 0 -1 0 0 0 0 1 0"], "mirrors"),
        (["--path", "magic"], "invalid choice: 'magic'"),
        (["--chunk", "0"], "--chunk 0"),
        (["--datadir", "/nowhere/scene"], "/nowhere/scene"),
        (["--out", "/proc/nowhere"], "/proc/nowhere"),
        (["--path", "circle", "--pose", "0,0,4"], "not allowed with"),
    ],
)
def test_a_mistake_gives_one_line(trained, capsys, arguments, message):
    run = [] if "--run" in arguments else ["--run", str(trained)]
    assert render.main([*run, *arguments]) == 2
    assert message in one_line(capsys, "render.py")


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_looking_at_a_run_leaves_its_report(flags, run, monkeypatch):
    assert train.main([*flags, "--i_alignment", "3"]) == 0
    before = files_of(run)
    others = ("--testskip 2", "--step 4", "--occupancy 8", "--render_factor 2", "--step 4 --testskip 2")
    for other in others:
        assert render.main(["--run", str(run), *other.split()]) == 0
    after = files_of(run)
    assert {name: after[name] for name in before} == before
    made = {name for name in set(after) - set(before) if name.endswith(".json")}
    assert made == {
        "metrics_testskip_2.json", "metrics_000004.json", "metrics_occupancy_8.json", "metrics_000004_testskip_2.json"
    }  # fmt: skip
    assert json.loads(after["metrics_testskip_2.json"])["views"] == 1


def test_what_was_measured_in_training_stays_in_the_report(flags, run):
    assert train.main([*flags, "--i_alignment", "3"]) == 0
    path = run / "000006.tar"
    torch.save({**torch.load(path, weights_only=True), "restarts": 2}, path)
    alignment = json.loads((run / "metrics.json").read_text())["alignment"]
    assert render.main(["--run", str(run)]) == 0
    report = json.loads((run / "metrics.json").read_text())
    assert report["alignment"] == alignment
    assert report["restarts"] == 2


def test_a_long_matrix_is_no_file_name(trained, tmp_path):
    turn = [[0.8660254037844387, -0.49999999999999994, 0.0, 0.1234567890123456]]
    turn += [[0.49999999999999994, 0.8660254037844387, 0.0, 0.1234567890123456], [0.0, 0.0, 1.0, 4.123456789012345]]
    text = ", ".join(f"{v:.17f}" for row in turn for v in row)
    assert len(text) > 255 - 20
    assert render.main(["--run", str(trained), "--out", str(tmp_path), f"--pose={text + ' ' * 60}"]) == 0
