"""The benchmark runs and says what it should; how fast things are is never asserted."""

import json
import time

import pytest
import torch

from nerf_dfa.benchmarks import shares, train_step
from nerf_dfa.benchmarks.measure import in_own_process
from nerf_dfa.nerf.flags import parse
from nerf_dfa.nerf.run import load_run_scene
from nerf_dfa.nerf.trainer import make_trainer


@pytest.fixture
def trainer(tiny_scene, tiny_mlp):
    options, _, _ = parse(["--config", str(tiny_mlp), "--datadir", str(tiny_scene)])
    return make_trainer(options, load_run_scene(options, "blender"), torch.device("cpu"))


def test_it_prints_one_json_object_with_both_fields(tiny_scene, tiny_mlp, tiny_grid, capsys):
    flags = ["--rules", "bp", "dfa", "dfa-best"]
    flags += "--rounds 1 --mlp_rays 4 --mlp_steps 1 --grid_rays 8 --grid_steps 1 --warm 2".split()
    flags += ["--mlp", str(tiny_mlp), "--grid", str(tiny_grid), "--datadir", str(tiny_scene), "--plain", "same"]
    assert train_step.main([*flags, "--device", "cpu"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert {"machine", "settings", "matmul_gflops", "plain_rays_per_second", "mlp", "grid"} <= set(result)
    for field in ("mlp", "grid"):
        assert list(result[field]) == ["bp", "dfa", "dfa-best"]
        assert result[field]["bp"]["first_rule_time_over"] == 1
        for row in result[field].values():
            assert row["rays_per_second"] > 0
            assert row["plain_time_over"]["same"] == pytest.approx(
                row["rays_per_second"] / result["plain_rays_per_second"]["same"]
            )
            assert sum(row["time_shares"].values()) == pytest.approx(1)
    assert result["mlp"]["dfa"]["gflop_a_step"] < result["mlp"]["bp"]["gflop_a_step"]
    assert result["mlp"]["bp"]["share_of_matmul_rate"] > 0


def test_compiled_networks_stand_beside_the_others(tiny_scene, tiny_mlp, tiny_grid, capsys, monkeypatch):
    compiled, counted, count = [], [], train_step.operations
    monkeypatch.setattr(torch, "compile", lambda function, dynamic: compiled.append(function) or function)
    monkeypatch.setattr(train_step, "operations", lambda function: counted.append(len(compiled)) or count(function))
    flags = "--rules bp --rounds 1 --mlp_rays 4 --mlp_steps 1 --grid_rays 8 --grid_steps 1 --warm 2 --plain".split()
    flags += ["--mlp", str(tiny_mlp), "--grid", str(tiny_grid), "--datadir", str(tiny_scene), "--compile"]
    assert train_step.main([*flags, "--device", "cpu"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert list(result["mlp"]) == list(result["grid"]) == ["bp", "bp+compile"]
    assert len(compiled) == 3  # coarse and fine, and the grid field
    assert counted == [0, 0]  # or they would never be compiled: torch leaves out what first runs while being counted
    assert result["mlp"]["bp+compile"]["gflop_a_step"] == result["mlp"]["bp"]["gflop_a_step"]


def test_a_missing_config_is_one_line(capsys):
    assert train_step.main(["--mlp", "nowhere.txt"]) == 2
    assert capsys.readouterr().err.startswith("train_step: error:")


def test_operations_are_those_of_the_layers(trainer):
    """By hand: dfa's forward products and those of the weights' gradients, and the error times the feedback."""
    rays, points = 16, 16 * (8 + 16)
    layers = [(63, 16), *4 * [(16, 16)], (79, 16), (16, 1), (16, 16), (16, 8), (8, 3)]
    directions = (27, 8)  # once for a ray, in each network
    products = points * sum(n * m for n, m in layers) + 2 * rays * directions[0] * directions[1]
    feedback = points * 4 * 16  # once for all layers
    assert train_step.operations(trainer.step) == 2 * (2 * products + feedback)


def test_other_rules_go_on_from_the_first_ones_weights(tiny_scene, tiny_grid):
    flags = ["--datadir", str(tiny_scene)]
    runs = train_step.make_runs(tiny_grid, ["bp", "dfa", "kp"], flags, 16, 1, 3, torch.device("cpu"))
    bp, dfa, kp = (trainer.model.state_dict() for trainer in runs.trainers.values())
    for other in (dfa, kp):
        assert all(torch.equal(bp[name], other[name]) for name in bp)
    assert [trainer.finished for trainer in runs.trainers.values()] == [3, 3, 3]


SLOW = 0.3  # seconds, that a part is slowed by: more than all of a tiny step on however busy a machine


def largest(parts):
    return max(parts, key=parts.__getitem__)


@pytest.mark.parametrize(
    ("slow", "part"), [("positional_encoding", "encoding"), ("render_rays", "sampling and compositing")]
)
def test_time_goes_to_the_part_that_takes_it(trainer, monkeypatch, slow, part):
    owner = shares.mlp if part == "encoding" else shares.task
    function = getattr(owner, slow)

    def slowly(*args):
        time.sleep(SLOW)
        return function(*args)

    monkeypatch.setattr(owner, slow, slowly)
    trainer.step()
    assert largest(shares.time_shares(trainer, 1)) == part
    assert getattr(owner, slow) is slowly  # nothing stays wrapped


class SlowBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.view_as(x)

    @staticmethod
    def backward(ctx, signal):
        time.sleep(SLOW)
        return signal


@pytest.mark.parametrize("more", ["bp", "dfa", "bp --error_kept 0.9999"])
def test_time_of_the_backward_pass_too(tiny_scene, tiny_mlp, monkeypatch, more):
    """And of that inside it, where only the samples that err go back."""
    flags = ["--config", str(tiny_mlp), "--datadir", str(tiny_scene), "--learning_rule", *more.split()]
    options, _, _ = parse(flags)
    trainer = make_trainer(options, load_run_scene(options, "blender"), torch.device("cpu"))
    raw = shares.mlp.MLPField.raw
    monkeypatch.setattr(shares.mlp.MLPField, "raw", lambda *args: SlowBackward.apply(raw(*args)))
    trainer.step()
    assert largest(shares.time_shares(trainer, 1)) == "network"


def test_time_of_the_pass_that_finds_where_rays_get_dark(tiny_scene, tiny_grid, monkeypatch):
    options, _, _ = parse(["--config", str(tiny_grid), "--datadir", str(tiny_scene), "--learning_rule", "bp"])
    trainer = make_trainer(options, load_run_scene(options, "blender"), torch.device("cpu"))
    density = shares.grid.GridField.raw_density
    monkeypatch.setattr(shares.grid.GridField, "raw_density", lambda *args: (time.sleep(SLOW), density(*args))[1])
    trainer.step()
    trainer.model.ends = True
    assert largest(shares.time_shares(trainer, 1)) == "network"


def test_time_of_the_optimiser(trainer, monkeypatch):
    update = trainer.optimizer.step
    monkeypatch.setattr(trainer.optimizer, "step", lambda: (time.sleep(SLOW), update()))
    assert largest(shares.time_shares(trainer, 1)) == "optimiser"


def make_counter(path):
    def count():
        path.write_text(path.read_text() + "x")

    return count


def test_a_function_in_its_own_process(tmp_path):
    path = tmp_path / "calls"
    path.write_text("")
    with in_own_process(make_counter, path) as count:
        count()
        count()
        assert path.read_text() == "xx"  # done when the call returns
