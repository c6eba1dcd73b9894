"""One scene in three formats: the same rays, the same colours, the same network; and what a format cannot hold."""

from dataclasses import replace

import pytest
import torch

from nerf_dfa.errors import UserError
from nerf_dfa.nerf.options import Options
from nerf_dfa.nerf.run import load_run_scene
from nerf_dfa.nerf.trainer import make_trainer
from nerf_dfa.rendering.cameras import Cameras
from nerf_dfa.scenes import Scene, load_scene
from nerf_dfa.scenes.procedural import write_demo
from nerf_dfa.scenes.write import main, write_scene

OPTIONS = {
    "blender": {},
    "transforms": {"keep_world": True},
    "llff": {"keep_world": True, "ndc": False, "factor": 1, "near": 2.0, "far": 6.0},
}


@pytest.fixture(scope="module")
def scene(tmp_path_factory) -> Scene:
    """Sixteen views, of which LLFF's rule holds out two."""
    root = tmp_path_factory.mktemp("demo") / "demo"
    write_demo(root, image_size=20, train_views=14, val_views=1, test_views=2)
    return replace(load_scene(root), near=2.0, far=6.0)


def without_val(scene: Scene) -> Scene:
    return replace(scene, split={**scene.split, "val": ()})


@pytest.fixture(scope="module")
def written(scene, tmp_path_factory):
    """The scene's folders by format."""
    root = tmp_path_factory.mktemp("written")
    for form in OPTIONS:
        write_scene(without_val(scene) if form == "llff" else scene, root / form, form)
    return {form: root / form for form in OPTIONS}


@pytest.mark.parametrize("form", OPTIONS)
def test_the_scene_comes_back(form, scene, written):
    read = load_scene(written[form], **OPTIONS[form])
    assert (read.near, read.far) == (2.0, 6.0)
    for split in ("train", "test"):
        (images, cameras, _), (expected, truth, _) = read.views(split), scene.views(split)
        assert torch.equal(images, expected)
        torch.testing.assert_close(cameras.poses, truth.poses, rtol=0, atol=1e-6)
        torch.testing.assert_close(cameras.intrinsics, truth.intrinsics, rtol=1e-6, atol=0)


def trained(form: str, folder, steps: int):
    """First batch, and validation-free PSNR of a short training, of the scene in one format."""
    given = {"no_ndc" if name == "ndc" else name: value for name, value in OPTIONS[form].items()}
    given |= {"no_ndc": True} if "no_ndc" in given else {}
    options = Options(
        datadir=str(folder), dataset_type=form, white_bkgd=True, field="grid", grid_min=4, grid_max=8, grid_levels=2
    )
    options = replace(options, precision="fp32", N_samples=12, N_rand=64, N_iters=steps, lrate=1e-2, bound=1.5, **given)
    loaded = load_run_scene(options, form)
    trainer = make_trainer(options, loaded, torch.device("cpu"))
    batch = trainer.task.batch(1, torch.Generator().manual_seed(5))
    trainer.run(steps)
    task = type(trainer.task)
    with torch.no_grad():
        test = replace(loaded, split={**loaded.split, "val": loaded.split["test"]})
        scored = task(test, trainer.task.training, trainer.task.inference, 64, torch.device("cpu"))
        trainer.model.eval()
        return batch, scored.evaluate(trainer.model)["val_psnr"]


def test_rays_and_psnr_do_not_depend_on_the_format(written):
    (rays, colours), psnr = trained("blender", written["blender"], 60)
    assert psnr > 10
    for form in ("llff", "transforms"):
        (other, same), found = trained(form, written[form], 60)
        assert torch.equal(colours, same)
        for a, b in zip(rays, other, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-5)
        assert found == pytest.approx(psnr, abs=0.01)


def test_lenses_come_back_from_transforms_alone(scene, tmp_path):
    views = len(scene.cameras)
    coefficients = torch.tensor([0.05, -0.02, 0.001, 0.0, 0.003, -0.002]).expand(views, 6)
    bent = replace(scene, cameras=replace(scene.cameras, distortion=coefficients))
    write_scene(bent, tmp_path / "bent", "transforms")
    read = load_scene(tmp_path / "bent", keep_world=True)
    torch.testing.assert_close(read.cameras.distortion, coefficients[: len(read.cameras)])
    for form in ("blender", "llff"):
        with pytest.raises(UserError, match="holds centred pinholes with square pixels alone"):
            write_scene(bent, tmp_path / form, form)
        assert not (tmp_path / form).exists()


def test_what_a_format_cannot_hold_is_refused(scene, tmp_path):
    def refused(changed: Scene, form: str, words: str) -> None:
        with pytest.raises(UserError, match=words) as error:
            write_scene(changed, tmp_path / "new", form)
        assert "\n" not in str(error.value)
        assert not (tmp_path / "new").exists()

    refused(replace(scene, ndc=True), "llff", "in normalised device coordinates; load it with no_ndc")
    refused(scene, "colmap", "can write blender, llff, transforms")
    moved = replace(scene, cameras=replace(scene.cameras, pixel_offset=0.0))
    refused(moved, "blender", "do not pass the pixels' centres")
    fewer = replace(scene, split={**scene.split, "val": (), "test": scene.split["test"][:1]})
    refused(fewer, "llff", "which are 2 of the 14")
    refused(scene, "llff", "would lose 1 views for validation")
    zoomed = scene.cameras.intrinsics.clone()
    zoomed[0, :2] *= 1.1
    refused(replace(scene, cameras=replace(scene.cameras, intrinsics=zoomed)), "blender", "one focal length")


def test_an_existing_folder_is_left_alone(scene, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="exists; choose a new folder"):
        write_scene(scene, tmp_path, "blender")
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


def test_the_program_turns_one_format_into_another(written, tmp_path, capsys):
    assert main([str(written["blender"]), str(tmp_path / "out"), "--format", "transforms"]) == 0
    assert isinstance(load_scene(tmp_path / "out").cameras, Cameras)
    capsys.readouterr()
    assert main([str(tmp_path / "none"), str(tmp_path / "other"), "--format", "llff"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_the_program_turns_photographs_in_ndc_into_other_formats(written, tmp_path, capsys):
    """LLFF is read in NDC and an eighth of the size where nothing is said; written it is as it lies on the disk."""
    assert main([str(written["llff"]), str(tmp_path / "a"), "--format", "transforms"]) == 0
    read, expected = load_scene(tmp_path / "a", keep_world=True), load_scene(written["llff"], **OPTIONS["llff"])
    assert torch.equal(read.images, expected.images)
    torch.testing.assert_close(read.cameras.poses, expected.cameras.poses)
    assert main([str(written["llff"]), str(tmp_path / "b"), "--format", "transforms", "--factor", "2"]) == 0
    assert load_scene(tmp_path / "b").images.shape[1:3] == (10, 10)
    capsys.readouterr()
    assert main([str(written["blender"]), str(tmp_path / "c"), "--format", "llff", "--factor", "2"]) == 2
    assert capsys.readouterr().err == "write: error: --factor has no effect on blender scenes; leave it out\n"
    assert main([str(written["llff"]), str(tmp_path / "c"), "--format", "llff", "--factor", "0"]) == 2
