"""train.py and render.py as a person runs them, on a tiny scene."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from nerf.runs import one_line, weights
from PIL import Image

from nerf_dfa.evaluation import report
from nerf_dfa.evaluation.metrics import mse_to_psnr
from nerf_dfa.nerf import render, train
from nerf_dfa.nerf import trainer as making
from nerf_dfa.nerf.collapse import Collapsed
from nerf_dfa.nerf.presets import learning
from nerf_dfa.training.checkpoints import list_checkpoints, load_checkpoint
from nerf_dfa.training.program import INTERRUPTED

ROOT = Path(__file__).parents[2]
MODES = {
    "dfa": [],
    "bp, coarse and fine": ["--learning_rule", "bp", "--N_importance", "4", "--netdepth_fine", "3", "--use_viewdirs"],
    "shallow": ["--learning_rule", "shallow"],
    "grid": ["--field", "grid", "--grid_min", "4", "--grid_max", "8", "--grid_levels", "2"],
    "dfa-best": "--preset dfa-best --field grid --grid_min 4 --grid_max 8 --N_points 64".split(),
    "dfa-best, MLP": ["--preset", "dfa-best", "--activation", "tanh", "--warmup", "2", "--occupancy", "8"],
    "mirror-best": ["--preset", "mirror-best", "--occupancy", "8"],
    "a feedback with its own rate": "--learning_rule dkp --feedback_lrate 1e-3".split(),
    "conditional": (
        "--learning_rule mdfa --conditional_feedback --probe_every 2 --use_viewdirs --feedback_outputs own".split()
    ),
    "hybrid, grid": "--learning_rule hdfa --field grid --grid_min 4 --grid_max 8 --feedback_outputs own".split(),
    "the paper's density, noise, disparity": "--density_activation relu --raw_noise_std 1 --lindisp".split(),
    "one image, precrop, no jitter": "--no_batching --precrop_iters 3 --perturb 0".split(),
    "bf16": ["--precision", "bf16"],
    "black background, no encoding": ["--i_embed", "-1"],
}


@pytest.mark.parametrize("mode", MODES)
def test_a_run_writes_its_folder(flags, run, mode):
    flags = [f for f in flags if not (f == "--white_bkgd" and "black" in mode)]
    if "--i_embed" in MODES[mode] or "grid" in MODES[mode]:
        i = flags.index("--multires")
        del flags[i : i + 2]
    if "grid" in MODES[mode]:
        for name in ("--netdepth", "--netwidth"):
            i = flags.index(name)
            del flags[i : i + 2]
    assert train.main([*flags, *MODES[mode]]) == 0
    names = {p.name for p in run.iterdir()}
    assert {"args.txt", "000004.tar", "000006.tar", "metrics.json", "testset_000006"} <= names
    assert {"tiny_circle_000006", "tiny_circle_000006_rgb.mp4", "tiny_circle_000006_disp.mp4"} <= names
    assert any(name.startswith("events.out.tfevents") for name in names)
    assert sorted(p.name for p in (run / "testset_000006").glob("*.png")) == ["000.png", "001.png"]
    assert not [p for p in run.rglob("*") if "tmp" in p.name]


def test_metrics_are_those_of_the_files_on_disk(flags, run, tiny_scene):
    assert train.main(flags) == 0
    report = json.loads((run / "metrics.json").read_text())
    psnrs = []
    for i in range(2):
        rgba = np.asarray(Image.open(tiny_scene / "test" / f"r_{i}.png"), dtype=np.float64) / 255
        truth = np.rint((rgba[..., :3] * rgba[..., 3:] + 1 - rgba[..., 3:]) * 255) / 255
        seen = np.asarray(Image.open(run / "testset_000006" / f"{i:03d}.png"), dtype=np.float64) / 255
        psnrs.append(-10 * np.log10(((truth - seen) ** 2).mean()))
    assert report["psnr"] == pytest.approx(np.mean(psnrs), abs=0.02)
    assert [image["psnr"] for image in report["images"]] == pytest.approx(psnrs, abs=0.02)
    assert report["learning_rule"] == "dfa"
    assert report["steps"] == 6
    assert report["parameters"] == sum(w.numel() for w in weights(run / "000006.tar").values())


@pytest.mark.parametrize(("occupancy", "more"), [("0", ""), ("6", ""), ("0", "--learning_rule hdfa --exact_share 0.5")])
def test_a_run_stopped_and_started_again_equals_an_unbroken_one_bit_for_bit(
    flags, run, tmp_path, occupancy, more, monkeypatch
):
    monkeypatch.setattr(making, "LOOK_EVERY", 2)
    monkeypatch.setattr(making, "LOOK_AFTER", 0)
    flags = [*flags, "--occupancy", occupancy, *more.split()]
    assert train.main([*flags, "--expname", "whole"]) == 0
    assert train.main([*flags, "--N_iters", "4"]) == 0
    assert train.main(flags) == 0
    a, b = weights(tmp_path / "runs" / "whole" / "000006.tar"), weights(run / "000006.tar")
    assert all(torch.equal(a[name], b[name]) for name in a)
    rules = [load_checkpoint(p / "000006.tar")["learning_rule_state_dict"] for p in (tmp_path / "runs" / "whole", run)]
    assert torch.equal(*(r["coarse"]["rule.feedback.projection.matrix"] for r in rules))
    if occupancy != "0":
        found = [load_checkpoint(p / "000006.tar")["occupancy_state_dict"] for p in (tmp_path / "runs" / "whole", run)]
        assert torch.equal(*(state["density"] for state in found))
        assert found[0]["density"].any()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_run_that_is_interrupted_or_killed_goes_on_to_the_same_weights(flags, run, tmp_path, number):
    long = [*flags, "--N_iters", "300", "--i_weights", "5", "--i_img", "0", "--i_print", "50"]
    program = subprocess.Popen(
        [sys.executable, ROOT / "train.py", *long],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1"},  # as many threads as here: sums are then in one order
    )
    deadline = time.monotonic() + 120
    while not list_checkpoints(run) and time.monotonic() < deadline and program.poll() is None:
        time.sleep(0.02)
    program.send_signal(number)
    assert program.wait(60) == (130 if number == signal.SIGINT else -signal.SIGKILL)
    assert 0 < max(int(p.stem) for p in list_checkpoints(run)) < 300

    assert train.main(long) == 0
    assert train.main([*long, "--expname", "whole"]) == 0
    a, b = weights(tmp_path / "runs" / "whole" / "000300.tar"), weights(run / "000300.tar")
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_a_finished_run_is_not_trained_again(flags, run, capsys):
    assert train.main(flags) == 0
    before = (run / "000006.tar").read_bytes()
    assert train.main(flags) == 0
    after = weights(run / "000006.tar")
    (run / "copy.tar").write_bytes(before)
    assert all(torch.equal(w, after[name]) for name, w in weights(run / "copy.tar").items())


def test_alignment_is_logged_and_reported_and_does_not_change_the_run(flags, run, tmp_path, capsys):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert train.main([*flags, "--i_alignment", "3"]) == 0
    assert train.main([*flags, "--expname", "without"]) == 0
    a, b = weights(run / "000006.tar"), weights(tmp_path / "runs" / "without" / "000006.tar")
    assert all(torch.equal(a[name], b[name]) for name in a)

    events = EventAccumulator(str(run)).Reload()
    assert [e.step for e in events.Scalars("alignment/coarse.layer_0/mean")] == [3, 6]
    layers = json.loads((run / "metrics.json").read_text())["alignment"]["layers"]
    assert list(layers) == ["coarse.layer_0", "coarse.layer_1"]
    capsys.readouterr()
    assert report.main([str(run)]) == 0
    assert f"coarse.layer_1 {layers['coarse.layer_1']['mean']:+.3f}" in capsys.readouterr().out


@pytest.mark.parametrize("kept", ["--error_kept 0.5 --samples_back 1", "--error_kept 0.9999 --samples_back 0.1"])
@pytest.mark.parametrize("rule", ["bp", "dfa-best", "mirror-best"])
def test_alignment_and_resuming_where_only_part_of_the_error_goes_back(rule, kept, flags, run, tmp_path):
    flags = [*flags, *learning(rule), *kept.split()]
    assert train.main([*flags, "--i_alignment", "3", "--N_iters", "4"]) == 0
    assert train.main([*flags, "--i_alignment", "3"]) == 0
    assert train.main([*flags, "--expname", "unbroken"]) == 0
    everything = flags[: -len(kept.split())]
    assert train.main([*everything, "--expname", "all", "--error_kept", "1"]) == 0
    a, b, c = (weights(folder / "000006.tar") for folder in (run, run.parent / "unbroken", run.parent / "all"))
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not all(torch.equal(a[name], c[name]) for name in a)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--learning_rule", "bp"], "learning_rule = dfa, and this one has learning_rule = bp"),
        (["--netwidth", "17"], "netwidth = 16, and this one has netwidth = 17"),
        (["--seed", "5"], "seed = 0"),
    ],
)
def test_other_settings_in_the_folder_of_a_run_are_refused(flags, run, capsys, more, message):
    assert train.main(flags) == 0
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    capsys.readouterr()
    assert train.main([*flags, *more]) == 2
    assert message in one_line(capsys)
    assert before == {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}


def test_a_checkpoint_of_another_architecture_is_refused(flags, run, tmp_path, capsys):
    assert train.main(flags) == 0
    capsys.readouterr()
    assert train.main([*flags, "--expname", "other", "--netwidth", "12", "--ft_path", str(run / "000006.tar")]) == 2
    assert "000006.tar (coarse network) is of another architecture" in one_line(capsys)
    assert not (tmp_path / "runs" / "other").exists()


def test_a_damaged_checkpoint_is_named(flags, run, capsys):
    assert train.main(flags) == 0
    (run / "000006.tar").write_bytes(b"rubbish")
    capsys.readouterr()
    assert train.main(flags) == 2
    assert "000006.tar is not a readable checkpoint" in one_line(capsys)


def break_scene(root: Path, how: str) -> str:
    """Damages the scene; returns what the message has to name."""
    path = root / "transforms_train.json"
    if how == "missing image":
        (root / "train" / "r_3.png").unlink()
        return "r_3.png"
    if how == "truncated image":
        data = (root / "train" / "r_3.png").read_bytes()
        (root / "train" / "r_3.png").write_bytes(data[: len(data) // 2])
        return "r_3.png"
    if how == "other size":
        Image.new("RGBA", (5, 7)).save(root / "train" / "r_3.png")
        return "r_3.png"
    if how == "broken JSON":
        path.write_text(path.read_text()[:-20])
        return "transforms_train.json"
    scene = json.loads(path.read_text())
    if how == "NaN pose":
        scene["frames"][2]["transform_matrix"][0][3] = float("nan")
    elif how == "missing key":
        del scene["camera_angle_x"]
    elif how == "no frames":
        scene["frames"] = []
    path.write_text(json.dumps(scene))
    return "transforms_train.json"


@pytest.mark.parametrize(
    "how", ["missing image", "truncated image", "other size", "broken JSON", "NaN pose", "missing key", "no frames"]
)
def test_a_damaged_scene_gives_one_line_and_no_run_folder(flags, tiny_scene, tmp_path, capsys, how):
    import shutil

    scene = tmp_path / "scene"
    shutil.copytree(tiny_scene, scene)
    name = break_scene(scene, how)
    assert train.main([*flags, "--datadir", str(scene)]) == 2
    assert name in one_line(capsys)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--datadir", "/nowhere/scene"], "/nowhere/scene: no such folder"),
        (["--factor", "4"], "--factor has no effect here: blender scenes do not read it"),
        (["--render_only"], "has no checkpoint yet"),
        (["--ft_path", "/nowhere/1.tar"], "no checkpoint at /nowhere/1.tar"),
        (["--half_res", "--image_size", "6"], "image_size"),
        (["--basedir", "/proc/nowhere"], "/proc/nowhere"),
        (["--occupancy", "4", "--bound", "1e-46"], "--bound 1e-46: such a cube has no size around "),
        (["--lindisp", "--near", "0"], "--lindisp needs a scene whose near is above 0"),
    ],
)
def test_a_mistake_gives_one_line(flags, capsys, more, message):
    assert train.main([*flags, *more]) == 2
    assert message in one_line(capsys)


def test_cuda_without_a_gpu_is_said(flags, capsys):
    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA GPU")
    assert train.main([*flags, "--device", "cuda"]) == 2
    assert "sees no CUDA GPU" in one_line(capsys)


def test_render_only_renders_the_path_or_the_test_views(flags, run, capsys):
    assert train.main(flags) == 0
    capsys.readouterr()
    assert train.main([*flags, "--render_only", "--render_test"]) == 0
    assert "PSNR" in capsys.readouterr().out
    assert train.main([*flags, "--render_only", "--path", "circle"]) == 0
    assert (run / "tiny_circle_000006_rgb.mp4").is_file()


def test_the_programs_start_from_the_repository(tmp_path):
    for program in ("train.py", "render.py"):
        done = subprocess.run([sys.executable, ROOT / program, "--help"], capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 0
        assert "--" in done.stdout
    done = subprocess.run([sys.executable, ROOT / "render.py"], capture_output=True, text=True, env={**os.environ})
    assert done.returncode == 2
    assert done.stderr.strip() == "render.py: error: the following arguments are required: --run"


def test_psnr_of_the_task_is_that_of_the_report():
    from nerf_dfa.nerf.task import psnr

    assert psnr(torch.tensor(0.01)).item() == pytest.approx(mse_to_psnr(0.01))


def test_a_collapsed_attempt_leaves_no_checkpoint_to_go_on_from(flags, run, monkeypatch, capsys):
    """Stopped soon after a new beginning, the run goes on from that, and counts the time before."""
    plain = train.make_trainer
    seconds = []

    def make(options, scene, device, attempt=0, before=0.0):
        trainer = plain(options, scene, device, attempt, before)

        def collapse(progress):
            raise Collapsed(progress.step)

        if attempt == 0:
            trainer.every(5, collapse)
        else:
            seconds.append(before)
            trainer.every(1, lambda _: os.kill(os.getpid(), signal.SIGINT))
        return trainer

    monkeypatch.setattr(train, "make_trainer", make)
    assert train.main(flags) == INTERRUPTED
    assert [path.name for path in list_checkpoints(run)] == ["000001.tar"]
    assert seconds[0] > 0
    monkeypatch.setattr(train, "make_trainer", plain)
    assert train.main(flags) == 0
    report = json.loads((run / "metrics.json").read_text())
    assert (report["restarts"], report["steps"]) == (1, 6)
    assert report["seconds"] > seconds[0]


def test_a_full_disk_is_said_in_one_line(flags, capsys, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device", "view.png")

    monkeypatch.setattr(train, "render_test_set", full)
    assert train.main(flags) == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        "train.py: error: cannot write view.png: No space left on device"
    )


def test_too_little_memory_is_said_in_one_line(flags, run, capsys, monkeypatch):
    def full(*_, **__):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes.")

    monkeypatch.setattr(train, "render_test_set", full)
    assert train.main(flags) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == "train.py: error: out of memory: give less --N_rand, --netchunk, --chunk or --occupancy"
    monkeypatch.setattr(render, "load_run", full)
    assert render.main(["--run", str(run)]) == 2
    assert "out of memory" in one_line(capsys, "render.py")


def test_a_video_along_test_views_needs_them(flags, tiny_scene, tmp_path, capsys):
    scene = tmp_path / "scene"
    shutil.copytree(tiny_scene, scene)
    (scene / "transforms_test.json").unlink()
    del flags[flags.index("--frames") : flags.index("--frames") + 2]
    assert train.main([*flags, "--datadir", str(scene), "--path", "test"]) == 2
    assert f"--path test: {scene} has no test views" in one_line(capsys)


def test_a_run_that_diverges_late_keeps_its_checkpoints(flags, run, monkeypatch, capsys):
    plain = train.make_trainer

    def make(*arguments):
        trainer = plain(*arguments)

        def diverge(progress):
            raise Collapsed(progress.step + 20_000, "the loss is no finite number")

        trainer.every(5, diverge)
        return trainer

    monkeypatch.setattr(train, "make_trainer", make)
    assert train.main(flags) == 2
    assert "the loss is no finite number; lower --lrate" in capsys.readouterr().err.splitlines()[-1]
    assert [path.name for path in list_checkpoints(run)] == ["000004.tar"]
