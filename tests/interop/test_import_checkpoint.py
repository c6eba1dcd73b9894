"""Checkpoints of the published networks' kind: made by those networks written again, imported, and compared."""

import os
import shutil
from collections import OrderedDict

import numpy as np
import pytest
import torch
import yaml
from interop.networks import Flexible, encode, randomised

from nerf_dfa.errors import UserError
from nerf_dfa.interop import flexible
from nerf_dfa.interop.import_checkpoint import import_checkpoint, main, read_foreign
from nerf_dfa.interop.published import config_beside, read_config, scene_by_name
from nerf_dfa.nerf import render
from nerf_dfa.nerf.run import load_run

CPU = torch.device("cpu")

CONFIG = {
    "dataset": {"type": "blender", "half_res": False, "near": 2, "far": 6, "no_ndc": True},
    "experiment": {"train_iters": 1000, "randomseed": 3},
    "models": {
        name: {
            "type": "FlexibleNeRFModel", "hidden_size": 999, "num_layers": 77,
            "num_encoding_fn_xyz": 10, "num_encoding_fn_dir": 4, "include_input_xyz": True, "include_input_dir": True,
            "log_sampling_xyz": True, "log_sampling_dir": True, "use_viewdirs": True,
        }
        for name in ("coarse", "fine")
    },
    "nerf": {
        "train": {
            "num_coarse": 6, "num_fine": 5, "lindisp": False, "white_background": True, "perturb": True,
            "radiance_field_noise_std": 0.2, "num_random_rays": 32,
        }
    },
    "optimizer": {"lr": 5e-3},
    "scheduler": {"lr_decay": 250, "lr_decay_factor": 0.1},
}  # fmt: skip


def with_value(name, value):
    """The config with one value changed, by its dotted name; None takes it out."""
    config = yaml.safe_load(yaml.safe_dump(CONFIG))
    *path, last = name.split(".")
    table = config
    for part in path:
        table = table[part]
    if value is None:
        del table[last]
    else:
        table[last] = value
    return config


def checkpoint(coarse, fine, **more):
    contents = {"iter": 99, "model_coarse_state_dict": coarse.state_dict()}
    contents["model_fine_state_dict"] = None if fine is None else fine.state_dict()
    return contents | {"optimizer_state_dict": {}, "loss": torch.tensor(0.1), "psnr": 20.0} | more


@pytest.fixture
def pair():
    """The coarse and the fine network of the release on direct feedback alignment, smaller."""
    return randomised(Flexible(4, 16, dfa=True)), randomised(Flexible(3, 24, dfa=True), seed=1)


@pytest.fixture
def refused(tmp_path, tiny_scene, capsys):
    """The one line that is printed for a file with these contents; bytes are the file itself."""

    def run(contents, config=None, scene=tiny_scene, name="lego.ckpt"):
        file, out = tmp_path / name, tmp_path / "run"
        if isinstance(contents, bytes):
            file.write_bytes(contents)
        elif contents is not None:
            torch.save(contents, file)
        flags = [str(file), "--out", str(out), *(["--datadir", str(scene)] if scene else [])]
        if config is not None:
            (tmp_path / "given.yml").write_text(config if isinstance(config, str) else yaml.safe_dump(config))
            flags += ["--config", str(tmp_path / "given.yml")]
        assert main(flags) == 2
        assert not out.exists()
        text = capsys.readouterr().err
        assert text.count("\n") == 1
        assert text.startswith("import_checkpoint: error: ")
        return text

    return run


def outputs(run, networks, encodings=(10, 4)):
    """Raw outputs of an imported run's networks, and of the originals, at random points."""
    generator = torch.Generator().manual_seed(1)
    positions = torch.randn(20, 3, generator=generator)
    directions = torch.nn.functional.normalize(torch.randn(20, 3, generator=generator), dim=-1)
    x = torch.cat([encode(positions, encodings[0]), encode(directions, encodings[1])], -1)
    model = load_run(run, CPU).model
    fields = [field.raw(positions, directions) for field in model.children()]
    return zip(fields, [network(x) for network in networks], strict=True)


@pytest.mark.parametrize("dfa", [True, False])
@pytest.mark.parametrize("depth", [2, 4, 7])
def test_an_imported_network_gives_the_raw_outputs_of_the_original(tmp_path, tiny_scene, dfa, depth):
    networks = [randomised(Flexible(n, w, 39, 15, dfa), seed=w) for n, w in ((depth, 16), (depth + 1, 24))]
    file = tmp_path / "my_scene.ckpt"
    torch.save(checkpoint(*networks), file)
    lines = import_checkpoint(file, tmp_path / "run", str(tiny_scene))
    assert ("DFAFlexibleNeRFModel" if dfa else ": FlexibleNeRFModel") in lines[0]
    assert f"step 100: coarse {depth} x 16 (" in lines[0]
    for got, expected in outputs(tmp_path / "run", networks, (6, 2)):
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


def test_a_network_without_view_directions_is_imported(tmp_path, tiny_scene):
    networks = [randomised(Flexible(4, 16, use_viewdirs=False), seed=i) for i in range(2)]
    torch.save(checkpoint(*networks), tmp_path / "a.ckpt")
    import_checkpoint(tmp_path / "a.ckpt", tmp_path / "run", str(tiny_scene))
    for got, expected in outputs(tmp_path / "run", networks):
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


def test_an_imported_run_is_rendered(tmp_path, tiny_scene, pair):
    torch.save(checkpoint(*pair), tmp_path / "a.ckpt")
    assert main([str(tmp_path / "a.ckpt"), "--out", str(tmp_path / "run"), "--datadir", str(tiny_scene)]) == 0
    assert render.main(["--run", str(tmp_path / "run"), "--testskip", "2", "--device", "cpu"]) == 0
    assert (tmp_path / "run" / "testset_000100_testskip_2" / "000.png").is_file()


def test_settings_come_from_the_config_beside_the_file(tmp_path, tiny_scene):
    networks = [randomised(Flexible(4, 16), seed=i) for i in range(2)]
    torch.save(checkpoint(*networks), tmp_path / "lego-lowres-199999.ckpt")
    (tmp_path / "lego-lowres.yml").write_text(yaml.safe_dump(CONFIG))
    (tmp_path / "config.yml").write_text("the one of another network")
    lines = import_checkpoint(tmp_path / "lego-lowres-199999.ckpt", tmp_path / "run", str(tiny_scene))
    assert lines[0].endswith("6 + 5 samples")
    assert any(line == f"settings: {tmp_path / 'lego-lowres.yml'}" for line in lines)
    options = load_run(tmp_path / "run", CPU).options
    expected = dict(
        N_samples=6, N_importance=5, white_bkgd=True, raw_noise_std=0.2, N_rand=32, near=2.0, far=6.0, seed=3,
        lrate=5e-3, lrate_decay=250, N_iters=1000, half_res=False, netdepth=4, netwidth=16, multires=10,
        learning_rule="bp", density_activation="relu", linear_first=True, feature_relu=True,
        pixel_offset=0.0, dataset_type="blender", expname="run",
    )  # fmt: skip
    assert {name: getattr(options, name) for name in expected} == expected
    assert "no_skip" not in (tmp_path / "run" / "args.txt").read_text()  # 4 layers have no skip to leave out


def test_the_scene_is_guessed_from_the_name_and_said(tmp_path, pair):
    torch.save(checkpoint(*pair), tmp_path / "real_fern_dfa.ckpt")
    lines = import_checkpoint(tmp_path / "real_fern_dfa.ckpt", tmp_path / "run")
    assert any(line.startswith("scene: scenes/nerf_llff_data/fern (llff), by the file's name") for line in lines)
    options = load_run(tmp_path / "run", CPU).options
    assert (options.factor, options.N_rand, options.learning_rule, options.linear_first) == (4, 4096, "dfa", False)


@pytest.mark.parametrize(
    ("name", "scene"),
    [
        ("synth_lego_dfa", ("lego", "blender")),
        ("fern-lowres-249999", ("fern", "llff")),
        ("legolas", None),
        ("lego_and_ship", None),
    ],
)
def test_scene_by_name(name, scene):
    assert scene_by_name(name) == scene


def test_config_beside_is_the_longest_that_the_name_begins_with(tmp_path):
    for name in ("a.yml", "a-b.yaml", "config.yml", "c.yml"):
        (tmp_path / name).write_text("")
    assert config_beside(tmp_path / "a-b-100.ckpt").name == "a-b.yaml"
    assert config_beside(tmp_path / "x.ckpt").name == "config.yml"
    assert config_beside(tmp_path / "none" / "x.ckpt") is None


def test_a_slower_decay_becomes_the_time_of_a_tenfold_fall(tmp_path):
    path = tmp_path / "c.yml"
    path.write_text(yaml.safe_dump(with_value("scheduler.lr_decay_factor", 0.01)))
    assert read_config(path).options["lrate_decay"] == 125


BROKEN = {
    "no file": (lambda c, f: None, "no checkpoint at"),
    "rubbish": (lambda c, f: b"not a checkpoint", "is not a readable checkpoint"),
    "a list": (lambda c, f: [1, 2], "it holds a list"),
    "other keys": (lambda c, f: {"state": 1, "epoch": 2}, "is of no known project"),
    "ours": (
        lambda c, f: {"network_fn_state_dict": {}, "learning_rule_state_dict": {}},
        "is a checkpoint of this program",
    ),
    "nerf-pytorch without args": (lambda c, f: {"network_fn_state_dict": {}}, "no args.txt lies beside it"),
    "no fine network": (lambda c, f: checkpoint(c, None), "has no fine network ('model_fine_state_dict')"),
    "no weights": (lambda c, f: checkpoint(c, f, model_coarse_state_dict=[]), "is not a network's weights"),
    "no step": (lambda c, f: checkpoint(c, f, iter="ten"), "its entry 'iter' is 'ten'"),
    "other encodings": (lambda c, f: checkpoint(c, Flexible(3, 24, 39, dfa=True)), "differently"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_file_is_one_line(refused, pair, case):
    make, expected = BROKEN[case]
    assert expected in refused(make(*pair))


def replaced(state, name, value):
    return OrderedDict((key, value if key == name else old) for key, old in state.items())


WEIGHTS = {
    "unknown name": (lambda s: s | {"layers_dir.1.weight": torch.zeros(8, 8)}, "'layers_dir.1.weight'"),
    "missing": (lambda s: {k: v for k, v in s.items() if k != "layers_dir.0.weight"}, "no 'layers_dir.0.weight'"),
    "missing layer": (lambda s: {k: v for k, v in s.items() if "layers_xyz.0" not in k}, "no 'pts_linears.1.weight'"),
    "not a tensor": (lambda s: replaced(s, "fc_rgb.bias", 3), "'fc_rgb.bias' is a int; expected a tensor"),
    "not finite": (lambda s: replaced(s, "fc_rgb.bias", torch.tensor([1, float("nan"), 0])), "not finite"),
    "no matrix": (lambda s: replaced(s, "layer1.weight", torch.zeros(3)), "expected a matrix"),
    "no encoding": (lambda s: replaced(s, "layer1.weight", torch.zeros(16, 62)), "reads 62 numbers for each point"),
    "wrong shape": (lambda s: replaced(s, "fc_feat.weight", torch.zeros(16, 17)), "is (16, 17) there and (16, 16)"),
    "a skip": (lambda s: replaced(s, "layers_xyz.1.weight", torch.zeros(16, 79)), "is (16, 79) there and (16, 16)"),
}


@pytest.mark.parametrize("case", WEIGHTS)
def test_wrong_weights_are_one_line_that_names_them(refused, pair, case):
    change, expected = WEIGHTS[case]
    config = with_value("models.coarse.type", "DFAFlexibleNeRFModel")
    text = refused(checkpoint(*pair, model_coarse_state_dict=change(pair[0].state_dict())), config)
    assert expected in text
    assert "(coarse network)" in text


CONFIGS = {
    "not YAML": ("a: [1", "not YAML"),
    "empty": ("", "models.coarse.type is missing; expected a text"),
    "wrong model": (with_value("models.coarse.type", "PaperNeRFModel"), "models.coarse.type is PaperNeRFModel"),
    "other model": (with_value("models.coarse.type", "FlexibleNeRFModel"), "describes a FlexibleNeRFModel"),
    "missing": (with_value("nerf.train.num_coarse", None), "nerf.train.num_coarse is missing; expected a whole number"),
    "wrong type": (with_value("optimizer.lr", "fast"), "optimizer.lr is 'fast'; expected a number"),
    "no raw input": (with_value("models.coarse.include_input_xyz", False), "models.coarse.include_input_xyz is false"),
    "linear frequencies": (with_value("models.coarse.log_sampling_dir", False), "log_sampling_dir is false"),
    "frequencies": (with_value("models.coarse.num_encoding_fn_xyz", 6), "num_encoding_fn_xyz is 6, but the network"),
    "format": (with_value("dataset.type", "deepvoxels"), "dataset.type is deepvoxels"),
    "other format": (with_value("dataset", {"type": "llff", "near": 0, "far": 1, "downsample_factor": 8, "llffhold": 8,
                                            "no_ndc": False}), "was trained on one of llff"),
}  # fmt: skip


@pytest.mark.parametrize("case", CONFIGS)
def test_a_wrong_config_is_one_line_that_names_the_value(refused, pair, case):
    config, expected = CONFIGS[case]
    if isinstance(config, dict) and case not in ("wrong model", "other model"):
        config["models"]["coarse"]["type"] = "DFAFlexibleNeRFModel"
    assert expected in refused(checkpoint(*pair), config)


def test_what_cannot_be_guessed_is_asked_for(refused, pair):
    assert "its name does not tell the scene; give --datadir" in refused(checkpoint(*pair), scene=None, name="a.ckpt")
    ordered = checkpoint(*pair, model_coarse_state_dict=dict(sorted(pair[0].state_dict().items())))
    assert "give its --config" in refused(ordered)
    assert "no such folder" in refused(checkpoint(*pair), scene="nowhere")


def test_a_folder_that_holds_something_is_left_alone(tmp_path, tiny_scene, pair):
    torch.save(checkpoint(*pair), tmp_path / "a.ckpt")
    with pytest.raises(UserError, match="not empty"):
        import_checkpoint(tmp_path / "a.ckpt", tmp_path, str(tiny_scene))


class Touch:
    """Pickles to a call that makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_nothing_in_a_file_is_executed(refused, pair, tmp_path):
    text = refused(checkpoint(*pair, loss=Touch(tmp_path / "executed")))
    assert "is not a readable checkpoint" in text
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("legacy", [False, True])
def test_numbers_of_numpy_are_read(tmp_path, pair, legacy):
    numbers = {"psnr": np.float64(20.5), "loss": np.float32(0.25), "height": np.int64(800)}
    file = tmp_path / "a.ckpt"
    torch.save(checkpoint(*pair, **numbers), file, _use_new_zipfile_serialization=not legacy)
    contents = read_foreign(file)
    assert {name: contents[name] for name in numbers} == numbers


def test_a_checkpoint_of_nerf_pytorch_is_imported_with_its_args(tmp_path, tiny_scene):
    from interop.networks import NeRF

    network = randomised(NeRF(2, 16))
    folder = tmp_path / "logs"
    folder.mkdir()
    torch.save({"global_step": 5, "network_fn_state_dict": network.state_dict()}, folder / "000005.tar")
    (folder / "args.txt").write_text(
        "N_importance = 0\nN_samples = 4\nconfig = x.txt\ndatadir = gone\ndataset_type = blender\nft_path = None\n"
        "netdepth = 2\nnetwidth = 16\nuse_viewdirs = True\n"
    )
    import_checkpoint(folder / "000005.tar", tmp_path / "run", str(tiny_scene))
    trained = load_run(tmp_path / "run", CPU)
    assert (trained.step, trained.options.datadir) == (5, str(tiny_scene))
    assert (trained.options.density_activation, trained.options.pixel_offset) == ("relu", 0)
    for got, expected in outputs(tmp_path / "run", [network]):
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


PUBLISHED = {
    "lighton/synth_lego_dfa.ckpt": ("DFAFlexibleNeRFModel", 500_000, 84_548, "nerf_synthetic/lego"),
    "lighton/real_fern_dfa.ckpt": ("DFAFlexibleNeRFModel", 200_000, 84_548, "nerf_llff_data/fern"),
    "krrish94/lego-lowres-199999.ckpt": ("FlexibleNeRFModel", 200_000, 84_548, "nerf_synthetic/lego"),
    "krrish94/fern-lowres-249999.ckpt": ("FlexibleNeRFModel", 250_000, 81_476, "nerf_llff_data/fern"),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_networks_are_imported(data, tmp_path, name):
    file = data / "checkpoints" / name
    if not file.is_file():
        pytest.skip(f"no {file}")
    model, step, parameters, scene = PUBLISHED[name]
    lines = import_checkpoint(file, tmp_path / "run", str(data / scene))
    assert f": {model} of " in lines[0]
    trained = load_run(tmp_path / "run", CPU)
    assert trained.step == step
    original = Flexible(4, 128, 39 if parameters == 81_476 else 63, dfa=model.startswith("DFA"))
    fields = list(trained.model.children())
    for field, state in zip(fields, flexible.networks(read_foreign(file), file).values(), strict=True):
        original.load_state_dict(state, strict=True)
        assert sum(p.numel() for p in field.parameters()) == parameters
        positions = torch.rand(50, 3) * 2 - 1
        directions = torch.nn.functional.normalize(torch.randn(50, 3), dim=-1)
        x = torch.cat([encode(positions, trained.options.multires), encode(directions, 4)], -1)
        torch.testing.assert_close(field.raw(positions, directions), original(x), rtol=1e-4, atol=1e-4)


def test_a_copy_of_a_published_file_needs_no_config(data, tmp_path):
    file = data / "checkpoints" / "krrish94" / "lego-lowres-199999.ckpt"
    if not file.is_file():
        pytest.skip(f"no {file}")
    shutil.copy(file, tmp_path / file.name)
    for folder, out in ((file.parent, "with"), (tmp_path, "without")):
        import_checkpoint(folder / file.name, tmp_path / out, str(data / "nerf_synthetic" / "lego"))
    alone, configured = (vars(load_run(tmp_path / out, CPU).options) for out in ("without", "with"))
    differ = {name for name, value in alone.items() if configured[name] != value}
    assert differ == {"expname", "near", "far", "seed"}  # near and far are the format's 2 and 6
