"""Training on a GPU: what its host would wait for, found on any machine; and, where there is one, training itself."""

import collections
import json
import traceback
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from nerf_dfa.learning import selected
from nerf_dfa.learning.projection import PROJECTIONS
from nerf_dfa.learning.rules import TargetProjection
from nerf_dfa.learning.selected import chosen
from nerf_dfa.nerf import render, train
from nerf_dfa.nerf.flags import parse
from nerf_dfa.nerf.model import build_model, training_settings
from nerf_dfa.nerf.presets import LEARNERS, learning
from nerf_dfa.nerf.run import load_run_scene, scene_format
from nerf_dfa.nerf.trainer import LOOK_AFTER, LOOK_EVERY, make_trainer
from nerf_dfa.rendering.query import raw_outputs

SMALL = (
    "--white_bkgd --N_samples 8 --N_rand 64 --lrate 1e-2 --precision fp32 --occupancy 8 --N_iters 40 --frames 2"
).split()
FIELDS = {
    "mlp": "--field mlp --netdepth 3 --netwidth 16 --multires 4 --use_viewdirs".split(),
    "grid": "--field grid --grid_min 4 --grid_max 8 --grid_levels 2".split(),
}
PACKAGE = Path(train.__file__).parents[1]
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")

# Whose result, or its shape, the host has to be told.
ASKING = {
    "nonzero", "_local_scalar_dense", "masked_select", "bincount", "_unique2", "unique_dim", "unique_consecutive",
    "equal", "is_nonzero", "repeat_interleave",
}  # fmt: skip
# The host makes a tensor of numbers of its own, and waits until the device has them.
GIVING = {"lift_fresh"}
COPYING = {"_to_copy", "copy_"}
# Draws on the host, and stays there.
HOSTS_OWN = ("hybrid.py", "_local_scalar_dense")
INDEXING = {"index", "index_put", "index_put_", "_unsafe_index"}


class Waits(TorchDispatchMode):
    """Where and how often an operation was met for which the host of a GPU waits.

    A copy to the device is one, too, and seen only where there are two: on a CPU beside the device "meta".
    """

    def __init__(self) -> None:
        super().__init__()
        self.found = collections.Counter()

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        name = operation._schema.name.removeprefix("aten::")
        by_mask = name in INDEXING and any(i is not None and i.dtype in (torch.bool, torch.uint8) for i in args[1])
        places = {x.device.type for x in (*args, *(kwargs or {}).values()) if isinstance(x, torch.Tensor)}
        places |= {(kwargs or {}).get("device", next(iter(places), None))} if name == "_to_copy" else set()
        copied = name in COPYING and len({str(place) for place in places if place is not None}) > 1
        if name in ASKING | GIVING or by_mask or copied:
            ours = [frame for frame in traceback.extract_stack() if str(PACKAGE) in frame.filename]
            if ours and (Path(ours[-1].filename).name, name) == HOSTS_OWN:
                return operation(*args, **(kwargs or {}))
            self.found[f"{name} at {ours[-1].filename}:{ours[-1].lineno}" if ours else name] += 1
        return operation(*args, **(kwargs or {}))


def options_of(scene: Path, *flags: str, device: str = "cpu"):
    return parse(["--datadir", str(scene), "--device", device, *SMALL, *flags])[0]


def trainer_of(options, device: str = "cpu", static: bool = True):
    trainer = make_trainer(options, load_run_scene(options, scene_format(options)), torch.device(device))
    trainer.task.training = replace(trainer.task.training, static_shapes=static)
    return trainer


def in_the_midst(trainer):
    """The trainer after a step from where the occupancy is looked at, of space that is half empty."""
    trainer.finished = LOOK_AFTER + LOOK_EVERY - LOOK_AFTER % LOOK_EVERY
    trainer.model.occupancy.occupied[:, :, 4:] = False
    return trainer.step()


@pytest.mark.parametrize("learner", LEARNERS)
@pytest.mark.parametrize("importance", [0, 4])
@pytest.mark.parametrize("field", FIELDS)
def test_no_step_waits_for_the_device(tiny_scene, field, importance, learner):
    """Only what comes once in LOOK_EVERY steps does: reading how much space is wanted."""
    trainer = trainer_of(options_of(tiny_scene, *FIELDS[field], "--N_importance", str(importance), *learning(learner)))
    in_the_midst(trainer)
    with Waits() as waits:
        for _ in range(LOOK_EVERY - 2):
            trainer.step()
    assert not waits.found
    with Waits() as waits:
        trainer.step()  # and looks
        assert trainer.finished % LOOK_EVERY == 0
    rooms = len(trainer.model.fields) * (1 + (trainer.task.training.error_kept < 1))
    assert sum(waits.found.values()) == rooms, waits.found
    assert all("_local_scalar_dense" in where and "room.py" in where for where in waits.found)


# What a flag adds to a step, each by a rule and a field that read it.
ADDED = [
    *(["--learning_rule", "dfa", "--feedback", kind] for kind in PROJECTIONS),
    "--learning_rule dfa --feedback_each".split(),
    "--learning_rule dfa --feedback_outputs own --weight_decay 0.1".split(),
    "--learning_rule mdfa --conditional_feedback".split(),
    "--learning_rule bp --N_points 128 --raw_noise_std 1 --no_batching --lrate_warmup 200".split(),
]


@pytest.mark.parametrize("flags", ADDED, ids=" ".join)
@pytest.mark.parametrize("field", FIELDS)
def test_no_flag_makes_a_step_wait(tiny_scene, field, flags):
    trainer = trainer_of(options_of(tiny_scene, *FIELDS[field], *flags))
    in_the_midst(trainer)
    with Waits() as waits:
        for _ in range(LOOK_EVERY - 2):
            trainer.step()
    assert not waits.found


@pytest.mark.parametrize("learner", LEARNERS)
@pytest.mark.parametrize("field", FIELDS)
def test_no_pass_brings_the_device_anything(tiny_scene, field, learner, monkeypatch):
    """A pass there and back on a device that is not the CPU, and has no numbers and no autocast."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())
    monkeypatch.setattr(torch, "get_autocast_dtype", lambda device: torch.bfloat16)
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda device: False)
    options = options_of(tiny_scene, *FIELDS[field], *learning(learner))
    model = build_model(options, torch.tensor([[-1.0] * 3, [1.0] * 3])).to("meta").train()
    settings = replace(training_settings(options, torch.device("cpu")), static_shapes=True)
    positions, directions = torch.rand(2, 64, 3, device="meta")
    if isinstance(model.coarse.rule, TargetProjection):
        model.coarse.rule.feedback.targets = torch.rand(64, 4, device="meta")
    for share in (1.0, 0.1):  # samples are drawn, or the fewest taken
        model.coarse.rooms.errors.share = share
        with Waits() as waits:
            raw_outputs(model.coarse, positions, directions, settings).square().sum().backward()
        assert not waits.found
    assert any(p.grad is not None for p in model.parameters())


def test_waits_are_found():
    """The tests above would see them."""
    x = torch.arange(4.0)
    with Waits() as waits:
        x.nonzero(), x[x > 1], float(x[0]), torch.tensor([1.0]), x.clone().__setitem__(x > 1, x[:2])
        x.to("meta"), torch.empty(4, device="meta").copy_(x), x.to(torch.float64)
    assert sum(waits.found.values()) == 7


def test_less_space_for_samples_is_not_less_for_those_that_err(tiny_scene):
    """Empty space is found: the samples' space shrinks at once, the errors' only by what they need."""
    flags = [
        *FIELDS["grid"],
        *"--N_rand 1024 --N_samples 16 --learning_rule bp --error_kept 0.9999 --samples_back 1".split(),
    ]
    trainer = trainer_of(options_of(tiny_scene, *flags))
    wanted, found = [], []

    def watched(error, selection, room):
        rows, weights = chosen(error, selection, room)
        wanted.append(len(chosen(error, selection)[0]))
        found.append(len(rows))
        return rows, weights

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(selected, "chosen", watched)
        for step in range(6 * LOOK_EVERY):
            if step == 2 * LOOK_EVERY:
                trainer.model.occupancy.occupied.fill_(False)[4:, 4:, 4:] = True
            trainer.step()
    assert found[-1] < 0.5 * 1024 * 16
    assert all(rows >= 0.95 * rows_wanted for rows, rows_wanted in zip(found, wanted, strict=True))


@pytest.mark.parametrize("importance", [0, 4])
@pytest.mark.parametrize("field", FIELDS)
def test_space_is_learned_and_training_is_the_same(tiny_scene, field, importance):
    """What a GPU does against what a CPU does, both on a CPU."""
    flags = [*FIELDS[field], *"--learning_rule bp --N_rand 256 --lrate 1e-3 --N_importance".split(), str(importance)]
    trainers = [trainer_of(options_of(tiny_scene, *flags), static=static) for static in (False, True)]
    for trainer in trainers:
        trainer.model.occupancy.occupied[:, :, 2:] = False
    losses = [[float(trainer.step().scalars["loss"]) for _ in range(40)] for trainer in trainers]
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
    assert trainers[1].model.coarse.rooms.samples.rows(256 * 8) < 256 * 8


@needs_gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("flags", [*map(learning, LEARNERS), *ADDED], ids=" ".join)
@pytest.mark.parametrize("field", FIELDS)
def test_a_gpu_trains_without_being_waited_for(tiny_scene, field, flags, precision):
    names = ["--N_importance", "4", "--precision", precision]
    options = options_of(tiny_scene, *FIELDS[field], *names, *flags, device="cuda")
    trainer = make_trainer(options, load_run_scene(options, scene_format(options)), torch.device("cuda"))
    first = float(in_the_midst(trainer).scalars["loss"])
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(LOOK_EVERY - 2):
            progress = trainer.step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert 0 <= float(progress.scalars["loss"]) < 2 * first
    trainer.step()  # and looks at the occupancy
    assert torch.isfinite(trainer.model.occupancy.density).all()


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=needs_gpu)])
def on_device(request, tiny_scene, tmp_path):
    """Flags of a tiny run on the device, and its folder. The CPU shows that the tests themselves are right."""
    names = ["--basedir", str(tmp_path), "--expname", "tiny"]
    return ["--datadir", str(tiny_scene), "--device", request.param, *SMALL, *names], tmp_path / "tiny"


def report(folder: Path) -> dict:
    return json.loads((folder / "metrics.json").read_text())


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("precision", ["fp32", "bf16", "auto"])
def test_a_run_ends_in_views_and_report(on_device, field, precision):
    flags, folder = on_device
    assert train.main([*flags, *FIELDS[field], "--N_importance", "4", "--precision", precision]) == 0
    assert report(folder)["psnr"] > 5
    assert render.main(["--run", str(folder), "--device", flags[3], "--path", "circle", "--frames", "2"]) == 0


@pytest.mark.parametrize("field", FIELDS)
def test_a_gpu_and_a_cpu_render_the_same(on_device, field):
    flags, folder = on_device
    flags = [*flags, *FIELDS[field], "--N_importance", "4"]
    assert train.main(flags) == 0
    scores = []
    for device in (flags[3], "cpu"):
        assert train.main([*flags, "--device", device, "--render_only", "--render_test"]) == 0
        scores.append(report(folder)["psnr"])
    assert scores[0] == pytest.approx(scores[1], abs=0.02)


def test_a_run_goes_on_where_it_stopped(on_device):
    flags, folder = on_device
    flags = [*flags, *FIELDS["grid"]]
    assert train.main([*flags, "--N_iters", "20"]) == 0
    assert train.main(flags) == 0
    assert report(folder)["steps"] == 40
