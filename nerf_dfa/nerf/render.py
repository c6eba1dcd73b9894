"""The program render.py: new views, videos and scores of a trained run."""

from __future__ import annotations

import argparse
import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nerf_dfa.errors import UserError, plain_cautions
from nerf_dfa.files import write_text
from nerf_dfa.machine import out_of_memory
from nerf_dfa.nerf.checks import check
from nerf_dfa.nerf.model import compare_cameras, inference_settings, measured_precision, occupied_anew
from nerf_dfa.nerf.options import Options
from nerf_dfa.nerf.outputs import (
    Studio,
    make_studio,
    reduced,
    render_path,
    render_test_set,
    render_views,
    write_report,
)
from nerf_dfa.nerf.run import Trained, load_run, load_run_scene, scene_format
from nerf_dfa.rendering import image_rays
from nerf_dfa.scenes import PATHS, look_at
from nerf_dfa.scenes.paths import nearest_to_axes
from nerf_dfa.scenes.scene import check_pose
from nerf_dfa.training.devices import choose_device
from nerf_dfa.training.program import Parser

# Flags that stand in for the run's own options of the same name; those that change the test views or their scores,
# which then stand beside the run's own.
VARIANTS = "dual testskip occupancy N_importance render_factor".split()
OVERRIDES = ["datadir", "chunk", "netchunk", "device", "precision", "frames", "fps", *VARIANTS]


def make_parser() -> Parser:
    parser = Parser(
        prog="render.py",
        description="Render a trained run: its test views with their scores, a camera path, or one pose.",
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    parser.add_argument("--run", required=True, help="run folder, as train.py made it")
    parser.add_argument("--step", type=int, default=None, help="checkpoint of this step [the last]")
    parser.add_argument("--out", default=None, help="folder to write to [the run folder]")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--path", choices=list(PATHS), default=None, help="a video along this path")
    what.add_argument(
        "--pose",
        action="append",
        default=None,
        help="a view: azimuth,elevation,distance (degrees, scene units; around the scene's middle), 12 or 16 numbers "
        "of a camera-to-world matrix by rows, or a file that holds them; may be given several times",
    )
    parser.add_argument("--frames", type=int, help="frames of the video")
    parser.add_argument("--fps", type=int, help="frames per second")
    parser.add_argument("--render_factor", type=int, help="divide the resolution by this")
    parser.add_argument("--dual", nargs="?", const="pixels", choices=["none", "pixels", "raw"],
                        help="NeRF-Dual: average both networks' pixels (or raw outputs)")  # fmt: skip
    parser.add_argument("--chunk", type=int, help="rays at once; halved when memory runs out")
    parser.add_argument("--netchunk", type=int, help="points through a network at once")
    parser.add_argument("--occupancy", type=int, help="skip samples in empty space, told by a grid of this resolution "
                        "that is made anew; 0: skip none [the run's own]")  # fmt: skip
    parser.add_argument("--N_importance", type=int, help="samples of the fine network beside the coarse ones")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"])
    parser.add_argument("--precision", choices=["auto", "fp32", "bf16"])
    parser.add_argument("--datadir", help="the scene's folder, if it has moved")
    parser.add_argument("--testskip", type=int, help="render every Nth test view")
    return parser


@plain_cautions("render.py")
def main(argv: list[str] | None = None) -> int:
    """Runs the program; returns its exit status: 0, or 2 for a user's mistake (one line)."""
    try:
        return run(sys.argv[1:] if argv is None else argv)
    except UserError as error:
        print(f"render.py: error: {error}", file=sys.stderr)
        return 2
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
        print("render.py: error: out of memory: give less --chunk, --netchunk or --occupancy", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("render.py: interrupted; the images written so far are whole", file=sys.stderr)
        return 130


def run(argv: list[str]) -> int:
    args = make_parser().parse_args(pose_joined(argv))
    _check_read(args)
    folder = Path(args.run)
    given = {name: getattr(args, name) for name in OVERRIDES if hasattr(args, name)}
    device = choose_device(given.get("device", "auto"))
    trained = load_run(folder, device, args.step)
    options = replace(trained.options, **given)
    check(options)
    if options.precision == "auto" or (options.precision == "bf16" and "precision" not in given):
        # What was faster where the run was trained may not be so here.
        options = replace(options, precision=measured_precision(options, device))
    if options.dual != "none" and trained.model.fine is None:
        raise UserError(f"--dual: {folder} has no fine network (N_importance = 0)")
    if "N_importance" in given:
        check_importance(trained, options.N_importance)
    dataset_type = scene_format(options)
    scene = load_run_scene(options, dataset_type)
    compare_cameras(trained.poses, scene, folder)
    if "occupancy" in given:
        trained.model.occupancy = occupied_anew(trained.model, scene, options)
    studio = make_studio(trained.model, scene, inference_settings(options, device), options, print)
    out = folder if args.out is None else Path(args.out)
    try:
        out.mkdir(parents=True, exist_ok=True)
        if args.path is not None:
            made = render_path(studio, out, options, args.path, trained.step, print)
        elif args.pose is not None:
            made = _render_poses(studio, out, options, args.pose, trained.step)
        else:
            before = vars(trained.options) | {"render_factor": 1}  # the run's own is that of its videos
            changed = {name: value for name, value in given.items() if name in VARIANTS and value != before[name]}
            made = _render_test(studio, out, options, trained, dataset_type, changed)
    except OSError as error:
        raise UserError(f"cannot write to {out}: {error.strerror or error}") from error
    for line in made:
        print(line)
    return 0


def pose_joined(argv: list[str]) -> list[str]:
    """The arguments with a pose that begins with a minus as --pose=-30,25,4, for argparse takes it for a flag."""
    joined = list(argv)
    for i in range(len(argv) - 1, 0, -1):
        if argv[i - 1] == "--pose" and re.match(r"-[\d.]", argv[i]):
            joined[i - 1 : i + 1] = [f"--pose={argv[i]}"]
    return joined


def check_importance(trained: Trained, count: int) -> None:
    """UserError for a number of fine samples that the run's networks cannot have."""
    if trained.model.fine is None:
        raise UserError(f"--N_importance: {trained.folder} has no fine network")
    if count < 1:
        raise UserError(f"--N_importance {count}: expected at least 1")


def _check_read(args: argparse.Namespace) -> None:
    """UserError for a flag that what is asked for would not read."""
    if args.path is None:
        for name in ("frames", "fps"):
            if hasattr(args, name):
                raise UserError(f"--{name} has no effect without --path circle|spiral|test")
    elif args.path == "test" and hasattr(args, "frames"):
        raise UserError("--frames has no effect with --path test, which has a frame for each test view")
    if hasattr(args, "testskip") and (args.pose is not None or args.path in ("circle", "spiral")):
        raise UserError("--testskip has no effect here: no test view is rendered")


def _render_test(
    studio: Studio, out: Path, options: Options, trained: Trained, dataset_type: str, changed: dict[str, Any]
) -> list[str | Path]:
    """The test views; their scores where they are rendered at full resolution.

    What the run's last checkpoint gives as it was trained is its metrics.json; anything else has a name that says so.
    """
    if not studio.scene.split.get("test"):
        raise UserError(f"{options.datadir} has no test views; give --path or --pose")
    variant = "".join(f"_{name}_{value}" for name, value in sorted(changed.items()))
    folder = out / f"testset_{trained.step:06d}{variant}"
    if "render_factor" in changed:
        _, cameras, _ = studio.scene.views("test")
        render_views(studio, reduced(cameras, changed["render_factor"]), folder, "test views")
        return [folder, "not scored: --render_factor changes the resolution"]
    scores = render_test_set(studio, folder)
    path = out / f"metrics{'' if trained.last else f'_{trained.step:06d}'}{variant}.json"
    before = _alignment_in(path, trained.step)
    write_report(
        path,
        scores | before,
        options,
        studio.scene,
        dataset_type,
        studio.model,
        trained.step,
        trained.seconds,
        trained.restarts,
    )
    return [folder, path, f"PSNR {scores['psnr']:.2f} dB over {scores['views']} test views"]


def _alignment_in(path: Path, step: int) -> dict[str, Any]:
    """The alignment, which is measured while training, that a report of the same step has."""
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
        return {"alignment": report["alignment"]} if report["steps"] == step else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _render_poses(studio: Studio, out: Path, options: Options, texts: list[str], step: int) -> list[Path]:
    """The views as pose_{step}/000.png ..., their disparities, and what they are of in poses.json.

    A number is added where there is such a folder already.
    """
    poses = torch.stack([parse_pose(text, studio.scene.cameras.poses, studio.scene.up) for text in texts])
    cameras = reduced(studio.scene.cameras.with_poses(poses), options.render_factor)
    for view, text in enumerate(texts):
        if studio.scene.ndc and not bool((image_rays(cameras, view, 0.0, 1.0).directions[..., 2] < 0).all()):
            raise UserError(
                f"--pose {text[:80]}: the scene is forward-facing and known only as seen along -z, and this pose looks "
                "elsewhere in a part of its picture; --path spiral shows where to look from"
            )
    folder, number = out / f"pose_{step:06d}", 1
    while folder.exists():
        folder, number = out / f"pose_{step:06d}_{number}", number + 1
    colours, depths = render_views(studio, cameras, folder, "poses")
    made = zip(colours, texts, poses.tolist(), strict=True)
    table = {path.name: {"pose": text, "camera_to_world": matrix} for path, text, matrix in made}
    write_text(folder / "poses.json", json.dumps(table, indent=1) + "\n")
    return [*colours, *depths]


def parse_pose(text: str, poses: torch.Tensor, up: tuple[float, float, float]) -> torch.Tensor:
    """Camera-to-world (3, 4) of what the user gave: three numbers around the scene's middle, a matrix, or a file.

    poses: the scene's own cameras, whose axes meet in its middle; up: the direction that elevation counts from.
    """
    numbers = _numbers(text)
    if numbers is None:
        try:
            numbers = _numbers(Path(text).read_text())
        except (OSError, UnicodeDecodeError):
            raise UserError(f"--pose {text[:80]!r}: neither numbers nor a text file of them") from None
        if numbers is None:
            raise UserError(f"--pose {text}: not a text file of numbers")
    if not np.isfinite(np.float32(numbers)).all():
        raise UserError(f"--pose {text[:80]}: its numbers have to be finite")
    if len(numbers) == 3:
        return _around(*numbers, centre=nearest_to_axes(poses), up=torch.tensor(up))
    if len(numbers) not in (12, 16):
        raise UserError(f"--pose: {len(numbers)} numbers; expected 3 (azimuth,elevation,distance), 12 or 16")
    matrix = torch.tensor(numbers[:12]).view(3, 4)
    check_pose(matrix, "--pose")
    return matrix


def _numbers(text: str) -> list[float] | None:
    """The numbers in a text, with or without brackets and commas; None if anything else is in it."""
    try:
        return [float(word) for word in text.translate(str.maketrans("[](),;", "      ")).split()]
    except ValueError:
        return None


def _around(azimuth: float, elevation: float, distance: float, centre: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """A camera that looks at the centre from these angles in degrees; azimuth 0 is the axis least along `up`."""
    if not -90 < elevation < 90 or distance <= 0:
        raise UserError("--pose: elevation lies between -90 and 90 degrees, and the distance is positive")
    up = up.to(centre)
    start = torch.eye(3).to(centre)[up.abs().argmin()]
    east = torch.nn.functional.normalize(start - (start @ up) * up, dim=0)
    north = torch.linalg.cross(up, east)
    a, e = np.radians(azimuth), np.radians(elevation)
    direction = np.cos(e) * (np.cos(a) * east + np.sin(a) * north) + np.sin(e) * up
    try:
        return look_at(centre + distance * direction, centre, up)
    except ValueError as error:
        raise UserError(f"--pose {azimuth:g},{elevation:g},{distance:g}: {error}") from None
