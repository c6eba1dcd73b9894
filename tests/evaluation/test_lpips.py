"""Loading LPIPS, which needs a package and weights from the network."""

import builtins
import hashlib
import io
import sys
import time
import types
import urllib.request
from typing import ClassVar
from urllib.error import URLError

import numpy as np
import pytest
import torch

from nerf_dfa.evaluation import metrics
from nerf_dfa.evaluation.metrics import (
    image_metrics,
    load_lpips,
)


def random_image(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


class TestLoadLpips:
    """What goes wrong on real machines; each must end in one line, with nothing on stdout."""

    def reason(self, capsys) -> str:
        model, reason = load_lpips()
        assert model is None
        assert "\n" not in reason
        assert capsys.readouterr().out == ""
        return reason

    @pytest.fixture
    def lpips_module(self, monkeypatch, tmp_path):
        """A package lpips whose LPIPS talks a lot, and an empty cache of weights."""

        class LPIPS(torch.nn.Module):
            def __init__(self, net, verbose):
                super().__init__()
                print("Setting up [LPIPS] perceptual loss")
                self.scale = torch.nn.Parameter(torch.ones(()))
                self.net = net

        module = types.ModuleType("lpips")
        module.LPIPS = LPIPS
        monkeypatch.setitem(sys.modules, "lpips", module)
        monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
        return module

    def test_not_installed(self, monkeypatch, capsys):
        monkeypatch.setitem(sys.modules, "lpips", None)
        assert self.reason(capsys).startswith("lpips cannot be imported (ModuleNotFoundError: ")

    def test_torchvision_of_another_torch(self, monkeypatch, capsys):
        real = builtins.__import__

        def broken(name, *args, **kwargs):
            if name == "lpips":
                print("noise")
                raise RuntimeError("operator torchvision::nms does not exist")
            return real(name, *args, **kwargs)

        monkeypatch.setattr(builtins, "__import__", broken)
        assert self.reason(capsys) == (
            "lpips cannot be imported (RuntimeError: operator torchvision::nms does not exist); "
            "install the torchvision that was built for this torch"
        )

    def test_no_network(self, monkeypatch, capsys, lpips_module):
        def unreachable(url, timeout):
            raise URLError(OSError(-2, "Name or service not known"))

        monkeypatch.setattr(urllib.request, "urlopen", unreachable)
        reason = self.reason(capsys)
        assert reason.startswith("the VGG weights of LPIPS cannot be fetched (URLError: ")
        assert "Name or service not known" in reason

    def test_network_that_never_answers(self, monkeypatch, capsys, lpips_module):
        monkeypatch.setattr(urllib.request, "urlopen", lambda url, timeout: time.sleep(3))
        monkeypatch.setattr(metrics, "ANSWER_SECONDS", 0.2)
        begin = time.monotonic()
        assert "no answer within 0.2 seconds" in self.reason(capsys)
        assert time.monotonic() - begin < 2

    def test_broken_weights(self, monkeypatch, capsys, lpips_module, tmp_path):
        (tmp_path / "checkpoints").mkdir()
        (tmp_path / "checkpoints" / "vgg16-397923af.pth").touch()

        def broken(net, verbose):
            raise RuntimeError("PytorchStreamReader failed\nreading zip archive")

        lpips_module.LPIPS = broken
        assert self.reason(capsys) == (
            "LPIPS cannot be built (RuntimeError: PytorchStreamReader failed reading zip archive)"
        )

    def answer(self, monkeypatch, content: bytes, announced: int, delay: float = 0) -> None:
        class Answer(io.BytesIO):
            headers: ClassVar = {"Content-Length": str(announced)}

            def read(self, size):
                time.sleep(delay)
                return super().read(size)

        monkeypatch.setattr(urllib.request, "urlopen", lambda url, timeout: Answer(content))

    def test_weights_are_fetched_once(self, monkeypatch, capsys, lpips_module, tmp_path):
        self.answer(monkeypatch, b"weights", 7)
        monkeypatch.setattr(metrics, "VGG_SHA256", hashlib.sha256(b"weights").hexdigest()[:8])
        model, reason = load_lpips()
        assert reason is None
        assert model.net == "vgg"
        assert not model.training
        assert not model.scale.requires_grad
        assert capsys.readouterr().out == ""
        assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["vgg16-397923af.pth"]
        monkeypatch.setattr(urllib.request, "urlopen", None)
        assert load_lpips()[1] is None

    @pytest.mark.parametrize("announced", [7, 9])
    def test_damaged_weights_are_not_kept(self, monkeypatch, capsys, lpips_module, tmp_path, announced):
        self.answer(monkeypatch, b"weights", announced)
        assert "arrived damaged" in self.reason(capsys)
        assert list((tmp_path / "checkpoints").iterdir()) == []

    def test_slow_download_is_given_up(self, monkeypatch, capsys, lpips_module, tmp_path):
        self.answer(monkeypatch, b"weights", 528_000_000, delay=0.3)
        monkeypatch.setattr(metrics, "ANSWER_SECONDS", 0.2)
        assert "too slow; fetch https://download.pytorch.org/models/vgg16-397923af.pth" in self.reason(capsys)
        assert list((tmp_path / "checkpoints").iterdir()) == []

    def test_this_machine(self, monkeypatch, capsys):
        """The real package, whatever state it is in here: a model or a reason; nothing is downloaded."""

        def unreachable(url, timeout):
            raise URLError("tests download nothing")

        monkeypatch.setattr(urllib.request, "urlopen", unreachable)
        model, reason = load_lpips()
        assert (model is None) != (reason is None)
        assert capsys.readouterr().out == ""
        if model is not None:
            image = random_image(32, 32, 3)
            assert image_metrics(image, image, model)["lpips"] == pytest.approx(0, abs=1e-6)
            assert image_metrics(image, 255 - image, model)["lpips"] > 0.1
