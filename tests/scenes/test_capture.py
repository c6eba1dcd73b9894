"""Captures with a program in COLMAP's place that records what it is asked and writes a model of that form."""

import json
import struct
import sys

import imageio.v3 as iio
import numpy as np
import pytest
from PIL import Image
from scenes.downloads import refused

from nerf_dfa.scenes.capture import capture, main, registered, sharpest, sharpness, video_frames

FAKE = """#!{python}
import json, os, struct, sys
from pathlib import Path
arguments = sys.argv[1:]
with open({calls!r}, "a") as file:
    file.write(json.dumps(arguments) + "\\n")
options = dict(zip(arguments[1::2], arguments[2::2]))
if "-h" in arguments:
    print({help!r})
elif arguments[0] == {failing!r}:
    print("one\\ntwo\\n\\nERROR: three\\n  four \\n*** a stack: ***\\n  @ 0x7f (unknown)")
    sys.exit(3)
elif arguments[0] == "mapper":
    names = sorted(os.listdir(options["--image_path"]))
    for number, model in enumerate({models!r}):
        folder = Path(options["--output_path"]) / str(number)
        folder.mkdir()
        content = struct.pack("<Q", model)
        for i, name in enumerate(names[:model]):
            content += struct.pack("<I4d3dI", i + 1, 1, 0, 0, 0, i, 0, 4, 1) + name.encode() + b"\\0"
            content += struct.pack("<Q", 0)
        (folder / "images.bin").write_bytes(content)
        (folder / "cameras.bin").write_bytes(struct.pack("<QIiQQ8d", 1, 1, 4, 8, 6, 9, 9, 4, 3, 0, 0, 0, 0))
        (folder / "points3D.bin").write_bytes(struct.pack("<Q", 0))
"""


@pytest.fixture
def colmap(tmp_path, monkeypatch):
    """Puts the program on the PATH; calls() are the arguments of each call so far."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.delenv("DISPLAY", raising=False)
    record = tmp_path / "calls"

    def install(failing="", models=(4,), help="COLMAP 3.8 (with CUDA)"):
        program = folder / "colmap"
        settings = dict(python=sys.executable, calls=str(record), failing=failing, models=models, help=help)
        program.write_text(FAKE.format(**settings))
        program.chmod(0o755)

    install()
    install.again = install
    install.calls = lambda: [json.loads(line) for line in record.read_text().splitlines()] if record.is_file() else []
    return install


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(5):
        pixels = np.random.default_rng(i).integers(0, 256, (6, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"p{i}.png")
    (folder / "notes.txt").write_text("no photograph")
    return folder


def test_photographs(colmap, photos, tmp_path, capsys):
    out = tmp_path / "new" / "scene"
    assert main([str(photos), str(out)]) == 0
    text = capsys.readouterr().out
    assert f"{out}: 4 of 5 images placed" in text
    assert f"train.py --datadir {out} --field grid --factor 1" in text
    assert {p.name: p.read_bytes() for p in (out / "images").iterdir()} == {
        p.name: p.read_bytes() for p in photos.glob("*.png")
    }
    assert sorted(p.name for p in (out / "sparse/0").iterdir()) == ["cameras.bin", "images.bin", "points3D.bin"]
    assert not [p.name for p in out.iterdir() if p.name.startswith(".")]
    database, images = ["--database_path", f"{out}/database.db"], ["--image_path", f"{out}/images"]
    lens = ["--ImageReader.camera_model", "OPENCV", "--ImageReader.single_camera", "1"]
    assert [call for call in colmap.calls() if "-h" not in call] == [
        ["feature_extractor", *database, *images, *lens],
        ["exhaustive_matcher", *database],
        ["mapper", *database, *images, "--output_path", f"{out}/.sparse.unfinished"],
    ]


def test_a_finished_capture_is_left_alone(colmap, photos, tmp_path):
    first = capture(photos, tmp_path / "out")
    count = len(colmap.calls())
    assert capture(photos, tmp_path / "out") == first == (tmp_path / "out", 5, 4, 1)
    assert len(colmap.calls()) == count


def test_the_largest_model_comes_first(colmap, photos, tmp_path):
    colmap(models=(2, 5, 3))
    made = capture(photos, tmp_path / "out")
    assert made.registered == 5
    assert [registered(tmp_path / "out/sparse" / str(i)) for i in range(3)] == [5, 3, 2]


def test_other_lenses(colmap, photos, tmp_path):
    capture(photos, tmp_path / "out", camera_model="OPENCV_FISHEYE")
    call = next(call for call in colmap.calls() if call[0] == "feature_extractor")
    assert call[call.index("--ImageReader.camera_model") + 1] == "OPENCV_FISHEYE"


@pytest.mark.parametrize(
    ("help", "gpu", "expected"),
    [
        ("3.8 (with CUDA) --SiftExtraction.use_gpu", True, []),
        ("3.8 (without CUDA)", True, ["--SiftExtraction.use_gpu", "--SiftMatching.use_gpu"]),
        ("3.8 (with CUDA)", False, ["--SiftExtraction.use_gpu", "--SiftMatching.use_gpu"]),
        (
            "3.13 (with CUDA) --FeatureExtraction.use_gpu --FeatureMatching.use_gpu",
            False,
            ["--FeatureExtraction.use_gpu", "--FeatureMatching.use_gpu"],
        ),
    ],
)
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere there is always a display")
def test_without_a_graphics_card(colmap, photos, tmp_path, help, gpu, expected):
    colmap(help=help)
    capture(photos, tmp_path / "out", gpu=gpu)
    used = [call for call in colmap.calls() if "-h" not in call]
    assert [word for call in used for word in call if "use_gpu" in word] == expected
    assert all(call[call.index(word) + 1] == "0" for call in used for word in call if "use_gpu" in word)


def test_colmap_is_missing(photos, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main([str(photos), str(tmp_path / "out")]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert "apt install colmap" in message
    assert "brew install colmap" in message
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("step", ["feature_extractor", "exhaustive_matcher", "mapper"])
def test_colmap_fails(colmap, photos, tmp_path, step):
    colmap(failing=step)
    out = tmp_path / "out"
    refused(
        lambda: capture(photos, out), f"colmap {step}", "status 3", "two | ERROR: three | four;", out / "colmap.log"
    )
    assert not (out / "sparse").exists()
    colmap()
    assert capture(photos, out).registered == 4  # the same call goes on


def test_colmap_finds_nothing(colmap, photos, tmp_path):
    colmap(models=())
    refused(lambda: capture(photos, tmp_path / "out"), tmp_path / "out/images", "overlap too little")


def test_folders_that_are_no_capture(colmap, photos, tmp_path):
    out = tmp_path / "out"
    refused(lambda: capture(tmp_path / "nowhere", out), tmp_path / "nowhere", "no such folder")
    (tmp_path / "empty").mkdir()
    refused(lambda: capture(tmp_path / "empty", out), tmp_path / "empty", "0 images")
    Image.new("RGB", (6, 8)).save(photos / "turned.jpg")
    refused(lambda: capture(photos, out), photos, "turned.jpg is 6x8", "p0.png 8x6")
    (photos / "turned.jpg").write_bytes(b"no image")
    refused(lambda: capture(photos, out), "turned.jpg", "not an image")
    refused(lambda: capture(photos, out, count=2), "count 2")
    refused(lambda: capture(photos, out, fps=0.0), "fps 0")
    assert not colmap.calls()
    (tmp_path / "file").write_text("in the way")
    refused(lambda: capture(photos, tmp_path / "file"), tmp_path / "file", "cannot be written")


@pytest.fixture
def video(tmp_path):
    """24 frames, 8 a second, of brightness 100, 103, ...; every third has sharp stripes, the others are smooth."""
    frames = np.empty((24, 64, 96, 3), dtype=np.uint8)
    for i in range(24):
        stripes = 40 * (np.arange(96) // 8 % 2) if i % 3 == 1 else np.zeros(96)
        frames[i] = (100 + 3 * i + stripes)[None, :, None]
    iio.imwrite(tmp_path / "walk.mp4", frames, fps=8, plugin="FFMPEG", quality=10)
    return tmp_path / "walk.mp4"


def brightness(frame):
    return np.median(np.sort(np.asarray(frame, dtype=float).ravel())[: frame.size // 3])


def test_the_sharpest_frames_of_a_video(video):
    chosen = list(video_frames(video, None, 8))
    assert len(chosen) == 8
    for i, frame in enumerate(chosen):
        assert abs(brightness(frame) - (100 + 3 * (3 * i + 1))) < 2.5
    assert len(list(video_frames(video, None, 100))) == 24
    assert len(list(video_frames(video, 2.0, 100))) == 6  # three seconds
    assert len(list(video_frames(video, 100.0, 100))) == 24


def test_video_becomes_a_scene(colmap, video, tmp_path):
    assert capture(video, tmp_path / "out", count=8) == (tmp_path / "out", 8, 4, 1)
    names = sorted(path.name for path in (tmp_path / "out/images").iterdir())
    assert names == [f"frame_{i:05}.jpg" for i in range(8)]
    with Image.open(tmp_path / "out/images/frame_00003.jpg") as image:
        assert image.size == (96, 64)
    assert [call[0] for call in colmap.calls() if "-h" not in call][1] == "sequential_matcher"


def test_a_file_that_is_no_video(colmap, tmp_path):
    (tmp_path / "x.mp4").write_bytes(b"no video")
    refused(lambda: capture(tmp_path / "x.mp4", tmp_path / "out"), tmp_path / "x.mp4", "no video")
    assert not list((tmp_path / "out").iterdir())


def test_sharpness_by_hand():
    rng = np.random.default_rng(0)
    frame = rng.integers(0, 256, (9, 11, 3), dtype=np.uint8)
    green = np.array([[frame[2 * i : 2 * i + 2, 2 * j : 2 * j + 2, 1].mean() for j in range(5)] for i in range(4)])
    squares = [
        (green[i - 1, j] + green[i + 1, j] + green[i, j - 1] + green[i, j + 1] - 4 * green[i, j]) ** 2
        for i in range(1, 3)
        for j in range(1, 4)
    ]
    assert sharpness(frame) == pytest.approx(np.mean(squares), rel=1e-5)
    assert sharpness(np.zeros((2, 2, 3), dtype=np.uint8)) == 0


def test_one_frame_of_each_run():
    sharp = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    dull = np.full((8, 8, 3), 7, dtype=np.uint8)
    chosen = list(sharpest([(0, dull), (0, sharp), (0, dull), (1, dull), (2, sharp // 2), (2, sharp)]))
    assert [c.tobytes() for c in chosen] == [sharp.tobytes(), dull.tobytes(), sharp.tobytes()]
    assert list(sharpest([])) == []


def test_registered_counts_text_models(tmp_path):
    assert registered(tmp_path) == 0
    (tmp_path / "images.txt").write_text("# comment\n1 1 0 0 0 0 0 0 1 a.png\n\n2 1 0 0 0 0 0 0 1 b.png\n1 2 -1\n")
    assert registered(tmp_path) == 2
    (tmp_path / "images.bin").write_bytes(struct.pack("<Q", 7))
    assert registered(tmp_path) == 7
