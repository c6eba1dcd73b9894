import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nerf_dfa import files
from nerf_dfa.errors import UserError
from nerf_dfa.evaluation import metrics
from nerf_dfa.evaluation.metrics import (
    evaluate_folder,
    image_metrics,
    mse_to_psnr,
    to_uint8,
    write_metrics,
)


def random_image(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def ssim_by_hand(x: np.ndarray, y: np.ndarray) -> float:
    """Wang et al. 2004, window by window, in float64."""
    x, y = x / 255.0, y / 255.0
    offsets = np.arange(11) - 5
    kernel = np.exp(-(offsets**2) / (2 * 1.5**2))
    window = np.outer(kernel, kernel) / kernel.sum() ** 2
    c1, c2 = 0.01**2, 0.03**2
    values = []
    for channel in range(3):
        for i in range(x.shape[0] - 10):
            for j in range(x.shape[1] - 10):
                a, b = x[i : i + 11, j : j + 11, channel], y[i : i + 11, j : j + 11, channel]
                mean_a, mean_b = (window * a).sum(), (window * b).sum()
                var_a = (window * (a - mean_a) ** 2).sum()
                var_b = (window * (b - mean_b) ** 2).sum()
                cov = (window * (a - mean_a) * (b - mean_b)).sum()
                values.append(
                    (2 * mean_a * mean_b + c1) * (2 * cov + c2) / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))
                )
    return float(np.mean(values))


class MeanAbsolute(torch.nn.Module):
    """Stands in for LPIPS: keeps what it was given and answers with the mean absolute difference."""

    def forward(self, a, b):
        self.given = (a, b)
        return (a - b).abs().mean().reshape(1, 1, 1, 1)


class TestRounding:
    @pytest.mark.parametrize("make", [torch.tensor, np.array])
    def test_rounds_and_clips(self, make):
        image = make([-0.2, 0.0, 0.7 / 255, 1.4 / 255, 254.6 / 255, 1.0, 1.5])
        assert to_uint8(image).tolist() == [0, 0, 1, 1, 255, 255, 255]

    def test_half_precision(self):
        image = torch.tensor([-0.2, 0.0, 0.5, 1.0, 1.5], dtype=torch.bfloat16)
        assert to_uint8(image).tolist() == [0, 0, 128, 255, 255]

    def test_every_8_bit_value_survives(self):
        values = torch.arange(256, dtype=torch.uint8)
        assert torch.equal(to_uint8(values.float() / 255), values)
        assert np.array_equal(to_uint8(values.numpy() / 255.0), values.numpy())

    @pytest.mark.parametrize("image", [torch.tensor([math.nan]), np.array([math.nan])])
    def test_refuses_nan(self, image):
        with pytest.raises(UserError, match="NaN"):
            to_uint8(image)


class TestPsnr:
    def test_known_values(self):
        assert mse_to_psnr(1.0) == 0
        assert mse_to_psnr(0.01) == pytest.approx(20)
        assert mse_to_psnr(0.0) == math.inf

    @pytest.mark.parametrize("psnr", [-3.0, 0.0, 22.6, 33.09])
    def test_it_is_decibels(self, psnr):
        assert mse_to_psnr(10 ** (-psnr / 10)) == pytest.approx(psnr)

    def test_refuses_negative_errors(self):
        with pytest.raises(ValueError, match="at least 0"):
            mse_to_psnr(-1e-9)


class TestImageMetrics:
    def test_psnr_of_one_wrong_value(self):
        true = np.full((12, 12, 3), 100, dtype=np.uint8)
        pred = true.copy()
        pred[3, 4, 1] = 151  # off by 51 / 255 = 1/5 in one of 432 values
        assert image_metrics(pred, true)["psnr"] == pytest.approx(10 * math.log10(432 * 25))

    def test_dark_is_not_confused_with_bright_by_wrap_around(self):
        black, white = np.zeros((11, 11, 3), np.uint8), np.full((11, 11, 3), 255, np.uint8)
        assert image_metrics(black, white)["psnr"] == pytest.approx(0)

    def test_ssim_equals_the_definition(self):
        true = random_image(17, 14, 3)
        noise = np.random.default_rng(1).normal(0, 20, true.shape)
        pred = np.clip(true + noise, 0, 255).astype(np.uint8)
        smooth = np.clip(np.linspace(20, 220, 17)[:, None, None] + noise / 4, 0, 255).astype(np.uint8)
        for a, b in [(pred, true), (smooth, true), (smooth, pred)]:
            assert image_metrics(a, b)["ssim"] == pytest.approx(ssim_by_hand(a, b), abs=1e-10)

    def test_equal_images(self):
        image = random_image(20, 20, 3)
        scores = image_metrics(image, image)
        assert scores == {"psnr": math.inf, "ssim": pytest.approx(1), "lpips": None}

    def test_float_truth_is_rounded_like_the_prediction(self):
        image = random_image(12, 12, 3)
        drift = np.random.default_rng(2).uniform(-0.4, 0.4, image.shape)
        true = torch.tensor((image + drift) / 255, dtype=torch.float32)
        assert image_metrics(torch.tensor(image), true)["psnr"] == math.inf

    def test_too_small_for_ssim_and_lpips(self):
        image = random_image(10, 30, 3)
        scores = image_metrics(image, 255 - image, MeanAbsolute())
        assert scores["ssim"] is None
        assert scores["lpips"] is None
        assert math.isfinite(scores["psnr"])

    def test_lpips_is_given_values_from_minus_one_to_one(self):
        pred = np.zeros((16, 20, 3), np.uint8)
        true = np.full((16, 20, 3), 255, np.uint8)
        true[0, 1, 2] = 51
        model = MeanAbsolute()
        score = image_metrics(pred, true, model)["lpips"]
        a, b = model.given
        assert a.shape == b.shape == (1, 3, 16, 20)
        assert a.unique().tolist() == [-1]
        assert b[0, 2, 0, 1].item() == pytest.approx(-0.6)
        assert b.max().item() == 1
        assert score == pytest.approx(2 - 1.6 / 960)

    def test_different_sizes_are_named(self):
        # the shapes in the signature where they are checked, otherwise the function's own words
        with pytest.raises((TypeError, ValueError), match=r"height|sizes"):
            image_metrics(random_image(12, 13, 3), random_image(13, 12, 3))


class TestEvaluateFolder:
    @pytest.fixture
    def folder(self, tmp_path):
        """Three views off by 1, 10 and 100 levels everywhere."""
        truth = np.full((3, 16, 18, 3), 120, np.uint8)
        paths = []
        for i, error in enumerate([1, 10, 100]):
            paths.append(tmp_path / f"{i:03d}.png")
            Image.fromarray(truth[i] + np.uint8(error)).save(paths[-1])
        return paths, truth, ["a.png", "b.png", "c.png"]

    def test_a_scene_has_the_mean_of_the_psnrs(self, folder):
        paths, truth, names = folder
        scores = evaluate_folder(paths, truth, names, with_lpips=False)
        each = [20 * math.log10(255 / error) for error in (1, 10, 100)]
        of_mean_error = -10 * math.log10(np.mean([(error / 255) ** 2 for error in (1, 10, 100)]))
        assert [image["psnr"] for image in scores["images"]] == pytest.approx(each)
        assert scores["psnr"] == pytest.approx(np.mean(each))
        assert abs(scores["psnr"] - of_mean_error) > 10
        assert [image["name"] for image in scores["images"]] == names
        assert scores["ssim"] == pytest.approx(np.mean([image["ssim"] for image in scores["images"]]))
        assert (scores["views"], scores["image_width"], scores["image_height"]) == (3, 18, 16)
        assert scores["lpips"] is None
        assert scores["lpips_unavailable"] == "not asked for"

    def test_float_truth_gives_the_same(self, folder):
        paths, truth, names = folder
        assert evaluate_folder(paths, torch.tensor(truth) / 255, names, with_lpips=False) == evaluate_folder(
            paths, truth, names, with_lpips=False
        )

    def test_with_lpips(self, folder, monkeypatch):
        paths, truth, names = folder
        monkeypatch.setattr(metrics, "load_lpips", lambda device: (MeanAbsolute(), None))
        scores = evaluate_folder(paths, truth, names)
        assert [image["lpips"] for image in scores["images"]] == pytest.approx(
            [error / 127.5 for error in (1, 10, 100)], rel=1e-5
        )
        assert scores["lpips"] == pytest.approx(37 / 127.5, rel=1e-5)
        assert "lpips_unavailable" not in scores

    def test_without_lpips_says_why(self, folder, monkeypatch):
        monkeypatch.setattr(metrics, "load_lpips", lambda device: (None, "the reason"))
        scores = evaluate_folder(*folder)
        assert scores["lpips"] is None
        assert scores["lpips_unavailable"] == "the reason"
        assert [image["lpips"] for image in scores["images"]] == [None] * 3

    def test_small_images_say_why(self, tmp_path):
        image = random_image(8, 8, 3)
        Image.fromarray(image).save(tmp_path / "0.png")
        scores = evaluate_folder([tmp_path / "0.png"], 255 - image[None], ["0"])
        assert scores["lpips_unavailable"] == "the images are smaller than 16 pixels"
        assert scores["ssim"] is None

    def test_missing_file(self, folder):
        paths, truth, names = folder
        paths[1].unlink()
        with pytest.raises(UserError, match=r"001\.png: no such file"):
            evaluate_folder(paths, truth, names, with_lpips=False)

    def test_file_of_another_kind(self, folder):
        paths, truth, names = folder
        paths[1].write_bytes(b"not a PNG")
        with pytest.raises(UserError, match=r"001\.png: cannot be read as an image") as caught:
            evaluate_folder(paths, truth, names, with_lpips=False)
        assert "\n" not in str(caught.value)

    def test_truncated_file(self, folder):
        paths, truth, names = folder
        Image.fromarray(random_image(16, 18, 3)).save(paths[1])
        paths[1].write_bytes(paths[1].read_bytes()[:400])
        with pytest.raises(UserError, match=r"001\.png: cannot be read as an image"):
            evaluate_folder(paths, truth, names, with_lpips=False)

    def test_file_of_another_size_or_mode(self, folder):
        paths, truth, names = folder
        Image.fromarray(random_image(10, 12, 3)).save(paths[2])
        with pytest.raises(UserError, match=r"002\.png: 12x10 pixels, but its photograph has 18x16"):
            evaluate_folder(paths, truth, names, with_lpips=False)
        Image.fromarray(random_image(16, 18, 4)).save(paths[2])
        with pytest.raises(UserError, match="mode RGBA"):
            evaluate_folder(paths, truth, names, with_lpips=False)

    def test_counts_must_agree(self, folder):
        paths, truth, names = folder
        with pytest.raises(ValueError, match="2 files and 3 names for 3 photographs"):
            evaluate_folder(paths[:2], truth, names)
        with pytest.raises(ValueError, match="for 0 photographs"):
            evaluate_folder([], truth[:0], [])


class TestWriteMetrics:
    def test_json_without_nan_and_infinity(self, tmp_path):
        path = tmp_path / "metrics.json"
        write_metrics(
            path,
            {
                "psnr": math.inf,
                "nan": math.nan,
                "images": [{"psnr": np.float32(0.5)}, {"psnr": np.float64(-math.inf)}],
                "settings": {"datadir": Path("scenes/lego"), "device": torch.device("cpu"), "size": (2, 3)},
                "steps": np.int64(7),
                "loss": torch.tensor(0.25),
                "dual": False,
                "commit": None,
            },
        )

        def refuse(token):
            raise AssertionError(token)

        assert json.loads(path.read_text(), parse_constant=refuse) == {
            "psnr": None,
            "nan": None,
            "images": [{"psnr": 0.5}, {"psnr": None}],
            "settings": {"datadir": "scenes/lego", "device": "cpu", "size": [2, 3]},
            "steps": 7,
            "loss": 0.25,
            "dual": False,
            "commit": None,
        }
        assert [entry.name for entry in tmp_path.iterdir()] == ["metrics.json"]

    def test_the_old_file_survives_a_failure(self, tmp_path, monkeypatch):
        path = tmp_path / "metrics.json"
        write_metrics(path, {"psnr": 1.0})

        def fail(source, target):
            raise OSError("disk on fire")

        monkeypatch.setattr(files.os, "replace", fail)
        with pytest.raises(OSError, match="disk on fire"):
            write_metrics(path, {"psnr": 2.0})
        assert json.loads(path.read_text()) == {"psnr": 1.0}
        assert [entry.name for entry in tmp_path.iterdir()] == ["metrics.json"]

    def test_others_may_read_it_as_any_file(self, tmp_path):
        write_metrics(tmp_path / "metrics.json", {})
        (tmp_path / "other").touch()
        assert (tmp_path / "metrics.json").stat().st_mode == (tmp_path / "other").stat().st_mode

    def test_what_json_cannot_hold_is_an_error(self, tmp_path):
        with pytest.raises(TypeError):
            write_metrics(tmp_path / "metrics.json", {"weights": torch.zeros(3)})
        assert list(tmp_path.iterdir()) == []
