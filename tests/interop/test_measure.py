"""PSNR on random pixels against the PSNR of whole pictures, and the published numbers on real data."""

import json

import pytest

from nerf_dfa.interop.import_checkpoint import import_checkpoint
from nerf_dfa.interop.measure import main, measure
from nerf_dfa.nerf import render, train
from nerf_dfa.scenes.procedural import write_demo

FLAGS = (
    "--white_bkgd --netdepth 2 --netwidth 16 --netdepth_fine 2 --netwidth_fine 16 --multires 4 --N_samples 8 "
    "--N_rand 32 --N_iters 3 --frames 2 --lrate 1e-2 --device cpu --learning_rule bp --pixel_offset 0"
).split()


@pytest.fixture(scope="module")
def run(tiny_scene, tmp_path_factory):
    base = tmp_path_factory.mktemp("runs")
    place = ["--datadir", str(tiny_scene), "--basedir", str(base), "--expname", "tiny", "--N_importance", "4"]
    assert train.main([*place, *FLAGS]) == 0
    return base / "tiny"


@pytest.mark.parametrize("dual", ["pixels", "raw"])
def test_all_pixels_score_as_the_pictures_on_the_disk(run, dual):
    result = measure(run, pixels=0, dual=dual, device="cpu")
    assert (result["views"], result["pixels_per_view"], result["resolution"]) == (2, 144, [12, 12])
    assert render.main(["--run", str(run), "--dual", dual, "--device", "cpu"]) == 0
    for key, name in (("fine", "metrics.json"), ("dual", f"metrics_dual_{dual}.json")):
        report = json.loads((run / name).read_text())
        assert result["psnr"][key] == pytest.approx(report["psnr"], abs=1e-3)
    assert result["psnr"]["coarse"] != result["psnr"]["fine"]


def test_random_pixels_are_those_of_the_seed(run):
    one, again, other = (measure(run, pixels=50, seed=seed, device="cpu")["psnr"] for seed in (0, 0, 1))
    assert one == again
    assert one != other


def test_testskip_leaves_views_out_and_the_program_prints_json(run, capsys):
    assert main([str(run), "--testskip", "2", "--pixels", "10", "--device", "cpu"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert [view["name"] for view in result["per_view"]] == ["test/r_0.png"]
    assert result["psnr"]["fine"] == result["per_view"][0]["fine"]


def test_another_scene_is_said_to_be_another(run, tmp_path, capsys):
    write_demo(tmp_path, image_size=12, train_views=5, val_views=2, test_views=2)
    assert main([str(run), "--datadir", str(tmp_path), "--pixels", "10", "--device", "cpu"]) == 0
    assert "trained on other cameras" in capsys.readouterr().err
    assert main([str(run), "--pixels", "10", "--device", "cpu"]) == 0
    assert not capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--pixels", "-1"], "--pixels -1: expected at least 0"),
        (["--testskip", "0"], "--testskip 0: expected at least 1"),
        (["--datadir", "nowhere"], "nowhere"),
    ],
)
def test_mistakes_are_one_line(run, capsys, flags, expected):
    assert main([str(run), *flags]) == 2
    text = capsys.readouterr().err
    assert text.count("\n") == 1
    assert expected in text


def fewer_views(scene, out, every):
    """A Blender scene's first training view and every Nth test view, in a folder of links."""
    out.mkdir()
    for split, step in (("train", 10**6), ("test", every)):
        table = json.loads((scene / f"transforms_{split}.json").read_text())
        table["frames"] = table["frames"][::step]
        (out / f"transforms_{split}.json").write_text(json.dumps(table))
        (out / split).symlink_to(scene / split)
    return out


@pytest.mark.parametrize(
    ("name", "pixels", "expected"),
    [
        ("lighton/synth_lego_dfa.ckpt", 200, {"coarse": 21.9, "fine": 22.6, "dual": 22.7}),
        ("krrish94/lego-lowres-199999.ckpt", 200, {"coarse": 24.4, "fine": 27.0}),
    ],
)
def test_the_published_lego_networks_reach_what_they_are_known_for(data, tmp_path, name, pixels, expected):
    """On every 25th test view; with so few pixels the numbers scatter by some 0.4 dB."""
    file, lego = data / "checkpoints" / name, data / "nerf_synthetic" / "lego"
    if not (file.is_file() and lego.is_dir()):
        pytest.skip(f"no {file} or no {lego}")
    scene = fewer_views(lego, tmp_path / "lego", 25)
    import_checkpoint(file, tmp_path / "run", str(scene))
    result = measure(tmp_path / "run", pixels=pixels, device="cpu")
    assert result["views"] == 8
    for key, value in expected.items():
        assert result["psnr"][key] == pytest.approx(value, abs=1.2)
