import math
import subprocess

import imageio.v2 as imageio
import imageio_ffmpeg
import numpy as np
import pytest
import torch
from PIL import Image

from nerf_dfa.evaluation.video import disparity_image, disparity_maximum, write_video

COLOURS = [(200, 30, 40), (30, 180, 60), (40, 60, 220), (128, 128, 128), (250, 250, 250), (5, 5, 5)]


def plain_frames(height: int, width: int) -> list[np.ndarray]:
    return [np.full((height, width, 3), colour, np.uint8) for colour in COLOURS]


def names(folder) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


class TestWriteVideo:
    @pytest.mark.parametrize(("height", "width"), [(100, 100), (48, 90), (2, 2)])
    def test_frames_come_back(self, tmp_path, height, width):
        path, note = write_video(tmp_path / "spiral.mp4", plain_frames(height, width), fps=10)
        assert (path, note) == (tmp_path / "spiral.mp4", None)
        with imageio.get_reader(path) as reader:
            meta = reader.get_meta_data()
            frames = list(reader.iter_data())
        assert meta["size"] == (width, height)
        assert meta["fps"] == 10
        assert meta["codec"] == "h264"
        assert "yuv420p" in meta["pix_fmt"]
        assert "bt709" in meta["pix_fmt"]
        assert len(frames) == len(COLOURS)
        for frame, colour in zip(frames, COLOURS, strict=True):
            assert np.abs(frame.astype(int) - colour).max() <= 6
        assert names(tmp_path) == ["spiral.mp4"]

    def test_odd_sizes_are_padded_not_scaled(self, tmp_path):
        # left half dark, right half bright, and an edge that would move if the frame were scaled
        frame = np.zeros((33, 51, 3), np.uint8)
        frame[:, 26:] = 200
        path, _ = write_video(tmp_path / "odd.mp4", [frame] * 3)
        with imageio.get_reader(path) as reader:
            back = reader.get_data(0).astype(int)
        assert back.shape == (34, 52, 3)
        assert np.abs(back[:33, :24]).max() <= 12
        assert np.abs(back[:, 28:] - 200).max() <= 12

    def test_tensors_and_generators(self, tmp_path):
        frames = (torch.tensor(frame) for frame in plain_frames(16, 16))
        path, _ = write_video(tmp_path / "t.mp4", frames)
        with imageio.get_reader(path) as reader:
            assert len(list(reader.iter_data())) == len(COLOURS)

    def test_one_frame(self, tmp_path):
        path, note = write_video(tmp_path / "one.mp4", plain_frames(16, 16)[:1])
        assert note is None
        with imageio.get_reader(path) as reader:
            assert len(list(reader.iter_data())) == 1

    def test_fractional_rate(self, tmp_path):
        path, _ = write_video(tmp_path / "ntsc.mp4", plain_frames(16, 16), fps=30000 / 1001)
        with imageio.get_reader(path) as reader:
            assert reader.get_meta_data()["fps"] == pytest.approx(29.97, abs=0.01)

    @pytest.mark.parametrize("frames", [[], iter([np.zeros((4, 4, 3), np.uint8), np.zeros((4, 6, 3), np.uint8)])])
    def test_frames_must_be_there_and_of_one_size(self, tmp_path, frames):
        with pytest.raises(ValueError, match="frames of one size"):
            write_video(tmp_path / "v.mp4", frames)
        assert names(tmp_path) == []

    def test_name_and_rate_are_checked(self, tmp_path):
        with pytest.raises(ValueError, match=r"ends in \.mp4"):
            write_video(tmp_path / "v.avi", plain_frames(4, 4))
        with pytest.raises(ValueError, match="positive"):
            write_video(tmp_path / "v.mp4", plain_frames(4, 4), fps=0)


class TestGif:
    def check(self, folder, result, height, width):
        assert result.path == folder / "v.gif"
        assert "\n" not in result.note
        assert result.note.startswith("v.gif instead of v.mp4: ")
        assert names(folder) == ["v.gif"]
        with Image.open(result.path) as gif:
            assert gif.n_frames == len(COLOURS)
            assert gif.size == (width, height)
            for i, colour in enumerate(COLOURS):
                gif.seek(i)
                assert gif.info["duration"] == 100
                assert np.abs(np.array(gif.convert("RGB")).astype(int) - colour).max() <= 4

    def test_without_ffmpeg(self, tmp_path, monkeypatch):
        def missing():
            raise RuntimeError("No ffmpeg exe could be found.\nInstall ffmpeg on your system")

        monkeypatch.setattr(imageio_ffmpeg, "get_ffmpeg_exe", missing)
        result = write_video(tmp_path / "v.mp4", iter(plain_frames(15, 21)), fps=10)
        self.check(tmp_path, result, 15, 21)
        assert "No ffmpeg exe could be found. Install" in result.note

    @pytest.mark.parametrize("reads", [True, False])
    def test_ffmpeg_that_fails(self, tmp_path, monkeypatch, capfd, reads):
        """Whether it fails after all frames or before the first, where writing to it breaks."""
        script = "cat > /dev/null; " if reads else "exec 0<&-; "
        real = subprocess.Popen

        def failing(command, **kwargs):
            return real(["sh", "-c", script + "echo no; echo Unknown encoder libx264 >&2; exit 3"], **kwargs)

        monkeypatch.setattr(subprocess, "Popen", failing)
        result = write_video(tmp_path / "v.mp4", plain_frames(200, 300), fps=10)
        self.check(tmp_path, result, 200, 300)
        assert "ffmpeg failed (Unknown encoder libx264)" in result.note
        assert capfd.readouterr() == ("", "")

    def test_an_older_video_is_kept_until_a_new_one_is_whole(self, tmp_path, monkeypatch):
        (tmp_path / "v.mp4").write_bytes(b"older")
        monkeypatch.setattr(imageio_ffmpeg, "get_ffmpeg_exe", lambda: "/nowhere/ffmpeg")
        result = write_video(tmp_path / "v.mp4", plain_frames(8, 8))
        assert result.path.name == "v.gif"
        assert (tmp_path / "v.mp4").read_bytes() == b"older"
        assert names(tmp_path) == ["v.gif", "v.mp4"]

    def test_interrupt_leaves_nothing_behind(self, tmp_path, monkeypatch):
        def interrupt(*args, **kwargs):
            raise KeyboardInterrupt

        monkeypatch.setattr(np, "pad", interrupt)
        with pytest.raises(KeyboardInterrupt):
            write_video(tmp_path / "v.mp4", plain_frames(8, 8))
        assert names(tmp_path) == []


class TestDisparity:
    def test_near_is_bright_and_common_maximum_holds(self):
        disparity = torch.tensor([[0.0, 0.25], [0.5, 2.0]])
        image = disparity_image(disparity, maximum=0.5)
        assert image.tolist() == [[[0] * 3, [128] * 3], [[255] * 3, [255] * 3]]
        assert disparity_image(disparity.numpy() / 2, maximum=0.5)[1, 0, 0] == 128

    def test_maximum_is_the_percentile_over_all_frames(self):
        frames = [
            np.arange(0, 5000).reshape(50, 100) / 1.0,
            np.arange(5000, 10001)[:5000].reshape(50, 100) / 1.0,
        ]
        assert disparity_maximum(frames) == pytest.approx(9900, rel=1e-3)

    def test_one_outlier_does_not_darken_the_rest(self):
        disparity = np.full((100, 100), 0.5)
        disparity[0, 0] = 1e6
        assert disparity_maximum([disparity]) == 0.5
        assert (disparity_image(disparity) == 255).all()

    def test_small_object_on_empty_background(self):
        disparity = torch.zeros(100, 100)
        disparity[50, 50:55] = 0.4
        image = disparity_image(disparity)
        assert image[50, 52].tolist() == [255, 255, 255]
        assert image[0, 0].tolist() == [0, 0, 0]

    def test_not_finite_values(self):
        disparity = torch.tensor([[math.nan, math.inf, -math.inf, 1.0]])
        assert disparity_maximum([disparity]) == 1.0
        assert disparity_image(disparity)[0, :, 0].tolist() == [0, 255, 0, 255]

    def test_empty_space_is_black(self):
        assert disparity_maximum([torch.zeros(4, 4)]) == 0
        assert (disparity_image(torch.zeros(4, 4)) == 0).all()

    def test_many_pixels_are_sampled(self, monkeypatch):
        monkeypatch.setattr("nerf_dfa.evaluation.video.PERCENTILE_SAMPLES", 1000)
        values = np.random.default_rng(0).uniform(0, 1, (20, 100, 100))
        assert disparity_maximum(list(values)) == pytest.approx(0.99, abs=0.01)
