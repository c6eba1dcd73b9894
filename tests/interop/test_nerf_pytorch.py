"""nerf-pytorch's checkpoints and run folders here, and ours there."""

import json
import math

import numpy as np
import pytest
import torch
from interop.networks import NeRF, encode, randomised
from PIL import Image

from nerf_dfa.interop import nerf_pytorch
from nerf_dfa.nerf import render, train
from nerf_dfa.nerf.model import build_model, codec
from nerf_dfa.nerf.options import Options
from nerf_dfa.nerf.run import load_run, read_args
from nerf_dfa.training.checkpoints import list_checkpoints, load_checkpoint

CPU = torch.device("cpu")
KEYS = {"coarse": "network_fn_state_dict", "fine": "network_fine_state_dict"}

# All that nerf-pytorch writes to args.txt, with the values of its lego config, smaller.
ARGS = """N_importance = {fine}
N_rand = 1024
N_samples = 8
basedir = ./logs
chunk = 32768
config = configs/lego.txt
datadir = {scene}
dataset_type = blender
expname = blender_paper_lego
factor = 8
ft_path = None
half_res = False
i_embed = 0
i_img = 500
i_print = 100
i_testset = 50000
i_video = 50000
i_weights = 10000
lindisp = False
llffhold = 8
lrate = 0.0005
lrate_decay = 500
multires = 10
multires_views = 4
netchunk = 65536
netdepth = 8
netdepth_fine = 8
netwidth = 16
netwidth_fine = 16
no_batching = True
no_ndc = False
no_reload = False
perturb = 1.0
precrop_frac = 0.5
precrop_iters = 500
raw_noise_std = 0.0
render_factor = 0
render_only = True
render_test = True
shape = greek
spherify = False
testskip = 1
use_viewdirs = True
white_bkgd = True
"""


def inputs(n=20):
    """Points and unit directions, and both as their network reads them."""
    generator = torch.Generator().manual_seed(1)
    positions = torch.randn(n, 3, generator=generator)
    directions = torch.nn.functional.normalize(torch.randn(n, 3, generator=generator), dim=-1)
    return positions, directions, torch.cat([encode(positions, 10), encode(directions, 4)], -1)


def their_checkpoint(path, networks, step=7):
    """A checkpoint as nerf-pytorch saves it, after one step of its optimiser."""
    parameters = [p for network in networks for p in network.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=5e-4, betas=(0.9, 0.999))
    _, _, x = inputs()
    width = networks[0].pts_linears[0].in_features
    sum(network(x if network.use_viewdirs else x[:, :width]).sum() for network in networks).backward()
    optimizer.step()
    contents = {"global_step": step, "optimizer_state_dict": optimizer.state_dict()}
    contents |= {key: network.state_dict() for key, network in zip(KEYS.values(), networks, strict=False)}
    torch.save(contents, path)


@pytest.fixture
def their_run(tiny_scene, tmp_path):
    """A run folder of nerf-pytorch, and its networks."""

    def make(fine=0, **options):
        folder = tmp_path / "logs" / "blender_paper_lego"
        folder.mkdir(parents=True)
        networks = [randomised(NeRF(8, 16, **options), seed=i) for i in range(2 if fine else 1)]
        their_checkpoint(folder / "000007.tar", networks)
        text = ARGS.format(scene=tiny_scene, fine=fine)
        if not options.get("use_viewdirs", True):
            text = text.replace("use_viewdirs = True", "use_viewdirs = False")
        (folder / "args.txt").write_text(text)
        return folder, networks

    return make


def picture(network, scene, view=0, samples=8):
    """A test view as nerf-pytorch renders it, by one network in float64; 8-bit."""
    table = json.loads((scene / "transforms_test.json").read_text())
    pose = torch.tensor(table["frames"][view]["transform_matrix"], dtype=torch.float64)
    size = 12
    focal = 0.5 * size / math.tan(0.5 * table["camera_angle_x"])
    j, i = np.meshgrid(np.arange(size), np.arange(size))
    camera = torch.tensor(np.stack([(j - size / 2) / focal, -(i - size / 2) / focal, -np.ones_like(j)], -1))
    directions = camera @ pose[:3, :3].T
    t = torch.linspace(2, 6, samples, dtype=torch.float64)
    positions = pose[:3, 3] + directions[..., None, :] * t[:, None]
    length = directions.norm(dim=-1, keepdim=True)
    views = (directions / length)[..., None, :].expand_as(positions)
    raw = network.double()(torch.cat([encode(positions, 10), encode(views, 4)], -1)).detach()
    delta = torch.cat([t.diff(), torch.tensor([1e10], dtype=torch.float64)]) * length
    alpha = 1 - torch.exp(-raw[..., 3].relu() * delta)
    through = torch.cat([torch.ones_like(alpha[..., :1]), (1 - alpha).cumprod(-1)], -1)
    weights = alpha * through[..., :-1]
    rgb = (weights[..., None] * raw[..., :3].sigmoid()).sum(-2) + through[..., -1:]
    return (rgb * 255).round().numpy().astype(int)


def read(path):
    return np.array(Image.open(path)).astype(int)


@pytest.mark.parametrize("depth", [4, 8])
@pytest.mark.parametrize("rule", ["bp", "dfa"])
def test_our_checkpoints_load_there_and_give_the_same_raw_outputs(depth, rule):
    options = Options(netdepth=depth, netwidth=16, netdepth_fine=6, netwidth_fine=24, use_viewdirs=True)
    options.N_importance, options.learning_rule = 4, rule
    model = build_model(options)
    entries = codec(model).entries()
    theirs = {"coarse": NeRF(depth, 16), "fine": NeRF(6, 24)}
    positions, directions, x = inputs()
    for name, network in theirs.items():
        network.load_state_dict(entries[KEYS[name]], strict=True)
        torch.testing.assert_close(network(x), getattr(model, name).raw(positions, directions), rtol=1e-5, atol=1e-5)

    ours = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    sum(field.raw(positions, directions).square().sum() for field in (model.coarse, model.fine)).backward()
    ours.step()
    parameters = [p for network in theirs.values() for p in network.parameters()]
    there = torch.optim.Adam(parameters, lr=1e-3)
    there.load_state_dict(ours.state_dict())  # nerf-pytorch loads it, too, even to render
    mine = list(model.parameters())
    for a, b in zip(mine, parameters, strict=True):
        assert torch.equal(ours.state[a]["exp_avg"], there.state[b]["exp_avg"])


def test_a_run_folder_renders_as_there(their_run, tiny_scene):
    folder, (network,) = their_run()
    assert render.main(["--run", str(folder), "--device", "cpu", "--precision", "fp32"]) == 0
    for view in range(2):
        got = read(folder / "testset_000007" / f"00{view}.png")
        assert np.abs(got - picture(network, tiny_scene, view)).max() <= 1
    assert got.std() > 10  # there is something to see


def test_its_config_and_ft_path_render_the_same(their_run, tiny_scene, tmp_path, capsys):
    folder, (network,) = their_run()
    config = tmp_path / "lego.txt"
    config.write_text(
        "expname = new\nbasedir = {}\ndatadir = {}\ndataset_type = blender\n\nno_batching = True\n\n"
        "use_viewdirs = True\nwhite_bkgd = True\nlrate_decay = 500\n\nN_samples = 8\nN_rand = 1024\n"
        "netwidth = 16\nprecrop_iters = 500\nprecrop_frac = 0.5\n".format(tmp_path / "runs", tiny_scene)
    )
    flags = f"--config {config} --near 2 --far 6 --ft_path {folder / '000007.tar'} --render_only --render_test"
    assert train.main([*flags.split(), "--device", "cpu", "--precision", "fp32"]) == 0
    assert "nerf-pytorch's: density_activation = relu, pixel_offset = 0.0" in capsys.readouterr().out
    got = read(tmp_path / "runs" / "new" / "testset_000007" / "000.png")
    assert np.abs(got - picture(network, tiny_scene)).max() <= 1


@pytest.mark.parametrize("fine", [0, 4])
def test_training_goes_on_from_a_run_folder_of_nerf_pytorch_and_on_again(their_run, tiny_scene, fine):
    folder, _ = their_run(fine)
    args = folder / "args.txt"
    args.write_text(args.read_text().replace("N_rand = 1024", "N_rand = 16"))
    flags = (
        f"--datadir {tiny_scene} --dataset_type blender --near 2 --far 6 --white_bkgd "
        f"--basedir {folder.parent} --expname {folder.name} --use_viewdirs --netwidth 16 --N_samples 8 "
        f"--N_importance {fine} {'--netwidth_fine 16' if fine else ''} "
        "--no_batching --N_rand 16 --lrate_decay 500 --precrop_iters 500 --frames 2 --render_factor 4 --device cpu"
    )
    for last in ("9", "11"):
        assert train.main([*flags.split(), "--N_iters", last]) == 0
    assert [int(p.stem) for p in list_checkpoints(folder)] == [7, 9, 11]
    options = read_args(folder)
    assert (options.density_activation, options.pixel_offset, options.learning_rule) == ("relu", 0, "bp")
    state = load_checkpoint(folder / "000011.tar")["optimizer_state_dict"]["state"]
    assert {int(s["step"]) for s in state.values()} == {5}  # one there, four here


@pytest.mark.parametrize(("fine", "outputs"), [(0, 4), (4, 5)])
def test_a_network_without_view_directions_loses_its_idle_parts(their_run, fine, outputs):
    folder, networks = their_run(fine, use_viewdirs=False, outputs=outputs)
    model = load_run(folder, CPU).model
    positions, directions, x = inputs()
    for field, network in zip(model.children(), networks, strict=True):
        expected = network(x[:, :63])[:, :4]
        torch.testing.assert_close(field.raw(positions, directions), expected, rtol=1e-5, atol=1e-5)


def test_own_args_leaves_out_what_was_not_set():
    assert nerf_pytorch.is_args(ARGS)
    table = dict(line.split(" = ") for line in nerf_pytorch.own_args(ARGS).splitlines())
    assert not {"config", "ft_path", "shape", "render_factor"} & set(table)
    assert table["learning_rule"] == "bp"
    assert table["N_rand"] == "1024"
    assert not nerf_pytorch.is_args("N_rand = 1\nlearning_rule = dfa\n")


def test_an_unknown_key_in_args_is_one_line_with_the_file(their_run, capsys):
    folder, _ = their_run()
    with (folder / "args.txt").open("a") as file:
        file.write("N_sample = 4\n")
    assert render.main(["--run", str(folder)]) == 2
    assert capsys.readouterr().err == (
        f"render.py: error: {folder / 'args.txt'}: unknown key 'N_sample'; did you mean N_samples?\n"
    )


def test_an_offset_outside_the_pixel_is_refused(tiny_scene, capsys):
    assert train.main(["--datadir", str(tiny_scene), "--pixel_offset", "1.5"]) == 2
    assert "--pixel_offset 1.5: 0 and 1 are a pixel's edges" in capsys.readouterr().err
