"""From options to the model, its renderer's settings and its checkpoint entries."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from nerf_dfa.errors import UserCaution, UserError
from nerf_dfa.fields import Field, GridField, MLPField, level_resolutions
from nerf_dfa.interop import nerf_pytorch
from nerf_dfa.learning.sequential import HELD
from nerf_dfa.nerf.conditions import BRANCHED, DIRECT_MLP, EACH, GRID_FEEDBACK, PROBED, RANDOM, SELECTING, TAUGHT
from nerf_dfa.nerf.options import Options
from nerf_dfa.rendering import OccupancyGrid, RadianceModel, RenderSettings
from nerf_dfa.scenes import Scene
from nerf_dfa.scenes.paths import nearest_to_axes
from nerf_dfa.training.checkpoints import entry, load_weights
from nerf_dfa.training.precision import Precision, faster_precision
from nerf_dfa.training.trainer import ModelCodec

# Points that go through a network at once, by field and device. On a CPU the MLP's activations of 8,192 points (8 MB
# at width 256) stay in the allocator's pool, and a step is 1.6 times faster than with 32,768; a grid's gradient is as
# large as the grid in every chunk, so few large chunks are better. A GPU wants large batches.
NETCHUNK = {("mlp", "cpu"): 8192, ("grid", "cpu"): 1 << 16, ("mlp", "cuda"): 1 << 19, ("grid", "cuda"): 1 << 21}

# Points on which precisions are compared, at most: as many as a step has, where these are fewer.
PRECISION_POINTS = {"cpu": 1 << 12, "cuda": 1 << 18}
# Cells of a grid field's occupancy along each axis.
GRID_OCCUPANCY = 64
# Points of every cell that are looked at where a trained model's occupancy is made.
LOOKS = 4

# nerf-pytorch's names of a network's entries in a checkpoint.
STATE_KEYS = {"coarse": "network_fn_state_dict", "fine": "network_fine_state_dict"}
RULE_KEY = "learning_rule_state_dict"
OCCUPANCY_KEY = "occupancy_state_dict"
POSES_KEY = "training_poses"
ENDS_KEY = "rays_end_in_the_dark"
RULE_PREFIX = "rule."


def build_model(options: Options, box: Float[Tensor, "2 3"] | None = None) -> RadianceModel:
    """The coarse and, with N_importance > 0, the fine field, on the CPU. Weights come from torch's generator.

    box: what a grid field and the occupancy fill; a checkpoint that is loaded afterwards brings its own.
    """
    coarse = _field(options, options.netdepth, options.netwidth, box)
    fine = None
    if options.N_importance > 0:
        fine = _field(options, options.netdepth_fine, options.netwidth_fine, box)
    resolution = occupancy_resolution(options)
    box = torch.zeros(2, 3) if box is None else box
    return RadianceModel(coarse, fine, OccupancyGrid(box, resolution) if resolution else None)


def compile_networks(model: RadianceModel) -> None:
    """Makes the passes through the model's networks torch.compile's, for any number of points.

    What first runs under a mode that counts operations is never compiled afterwards.
    """
    for field in model.fields.values():
        field.raw = torch.compile(field.raw, dynamic=True)


@contextmanager
def uncompiled(model: RadianceModel) -> Iterator[None]:
    """Within it the passes are as they were before `compile_networks`: a compiled one keeps no tape's activations."""
    fields = [field for field in model.fields.values() if "raw" in vars(field)]
    compiled = [vars(field).pop("raw") for field in fields]
    try:
        yield
    finally:
        for field, raw in zip(fields, compiled, strict=True):
            field.raw = raw


def mean_colour(scene: Scene, count: int = 1 << 14) -> Float[Tensor, " 3"]:
    """Mean colour of random pixels of the training views, those with alpha by their alpha; within [0.02, 0.98]."""
    generator = torch.Generator().manual_seed(0)
    sizes = (len(scene.split["train"]), *scene.images.shape[1:3])
    view, row, column = (torch.randint(0, n, (count,), generator=generator) for n in sizes)
    pixels = scene.images[torch.tensor(scene.split["train"])[view], row, column].float() / 255
    alpha = pixels[:, 3:] if pixels.shape[-1] == 4 else torch.ones_like(pixels[:, :1])
    return ((pixels[:, :3] * alpha).sum(0) / alpha.sum().clamp(min=1e-6)).clamp(0.02, 0.98)


def occupancy_resolution(options: Options) -> int:
    """Cells of the occupancy along each axis; 0: there is none."""
    if options.occupancy is None:
        return GRID_OCCUPANCY if options.field == "grid" else 0
    return options.occupancy


def sample_length(options: Options, scene: Scene) -> float:
    """Length of a ray in t that a sample stands for, on average.

    In normalised device coordinates t = 1 is about two units of the box; there cells are given up as empty at twice
    the optical depth that OccupancyGrid's constant says. No loss of it could be measured on fern.
    """
    return (scene.far - scene.near) / (options.N_samples + options.N_importance)


def occupied_anew(model: RadianceModel, scene: Scene, options: Options) -> OccupancyGrid | None:
    """An occupancy for a trained model, found by looking at every cell; None if the options want none."""
    resolution = occupancy_resolution(options)
    if not resolution:
        return None
    device = next(model.parameters()).device
    grid = OccupancyGrid(scene_box(scene, options.bound), resolution).to(device)
    generator = torch.Generator(device).manual_seed(0)
    for _ in range(LOOKS):
        grid.update(model.density, sample_length(options, scene), generator)
    return grid


def _field(options: Options, depth: int, width: int, box: Float[Tensor, "2 3"] | None) -> Field:
    own_outputs = options.feedback_outputs == "own" and BRANCHED[0](options)  # as a preset may have it for any rule
    if options.field == "grid":
        return GridField(
            box=torch.zeros(2, 3) if box is None else box,
            resolutions=level_resolutions(options.grid_min, options.grid_max, options.grid_levels),
            features=options.grid_features,
            depth=options.grid_depth,
            width=options.grid_width,
            direction_frequencies=options.multires_views,
            log2_table=options.grid_log2_table,
            # A preset may name it beside a rule that has no feedback of its own for the features.
            grid_gradient=options.grid_gradient if GRID_FEEDBACK[0](options) else "feedback",
            learning_rule=options.learning_rule,
            density_activation=options.density_activation,
            activation=options.activation,
            rule_options=_rule_options(options),
            own_outputs=own_outputs,
        )
    encoded = options.i_embed == 0
    return MLPField(
        depth=depth,
        width=width,
        position_frequencies=options.multires if encoded else 0,
        direction_frequencies=options.multires_views if encoded else 0,
        use_viewdirs=options.use_viewdirs,
        learning_rule=options.learning_rule,
        density_activation=options.density_activation,
        activation=options.activation,
        rule_options=_rule_options(options),
        own_outputs=own_outputs,
        linear_first=options.linear_first,
        feature_relu=options.feature_relu,
        skip=not options.no_skip,
        feedback_block=options.feedback_block if DIRECT_MLP[0](options) else 1,
    )


def _rule_options(options: Options) -> dict[str, str | int | float | bool]:
    if RANDOM[0](options):
        return {
            "feedback": options.feedback,
            "normalisation": options.feedback_normalisation,
            "shared": not (options.feedback_each and EACH[0](options)),
        }
    if not PROBED[0](options):
        return {}
    own = {"conditional": options.conditional_feedback} if TAUGHT[0](options) else {}
    return own | {
        "every": options.probe_every,
        "first": options.probe_first,
        "growth": options.probe_growth,
        "average": options.probe_average,
    }


def scene_box(scene: Scene, bound: float | None = None) -> Float[Tensor, "2 3"]:
    """The part of the world that a grid field fills.

    A cube around the point that the cameras look at, with half side `bound`, by default half the way from near to
    far. In normalised device coordinates the frustum is the cube [-1, 1]^3 already; it is widened sideways, where
    the other cameras look past the first one's edges. Raises UserError for a cube of which rounding leaves nothing.
    """
    if scene.ndc:
        return torch.tensor([[-1.5, -1.5, -1.0], [1.5, 1.5, 1.0]])
    centre = nearest_to_axes(training_poses(scene))
    half = (scene.far - scene.near) / 2 if bound is None else bound
    box = torch.stack([centre - half, centre + half])
    if not (box[1] > box[0]).all():
        raise UserError(f"--bound {half:g}: such a cube has no size around {', '.join(f'{x:.3g}' for x in centre)}")
    return box


def measured_precision(options: Options, device: torch.device) -> Precision:
    """What one pass of the options' last network, forward and backward, is faster in on this machine."""
    if options.learning_rule == "drtp":  # which wants targets, and takes as long as dfa
        options = replace(options, learning_rule="dfa")
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        field = list(build_model(options, torch.tensor([[-1.0] * 3, [1.0] * 3])).fields.values())[-1].to(device)
        of_step = options.N_points or options.N_rand * (options.N_samples + options.N_importance)
        positions, directions = torch.rand(2, min(of_step, PRECISION_POINTS[device.type]), 3) * 2 - 1
        positions, directions = positions.to(device), directions.to(device)
        # Rules draw noise in a pass, and how many there are is a matter of time.
        return faster_precision(lambda: field.raw(positions, directions).square().mean().backward(), device)


def training_settings(options: Options, device: torch.device) -> RenderSettings:
    """How training rays are rendered."""
    return RenderSettings(
        samples=options.N_samples,
        importance=options.N_importance,
        lindisp=options.lindisp,
        background=1.0 if options.white_bkgd else 0.0,
        perturb=options.perturb > 0,
        noise=options.raw_noise_std,
        # Photographs have no background: what lies behind the last sample is its matter, as in the paper. Objects
        # on white have; there the MLP's ReLU can be empty, but a softplus or the end of a box would hide the white.
        opaque_end=not options.white_bkgd or (options.density_activation == "relu" and options.field == "mlp"),
        netchunk=options.netchunk or NETCHUNK[options.field, device.type],
        error_kept=options.error_kept if SELECTING[0](options) else 1.0,
        samples_back=options.samples_back,
        static_shapes=device.type != "cpu",
    )


def inference_settings(options: Options, device: torch.device) -> RenderSettings:
    """How views are rendered: no noise, fixed samples, NeRF-Dual if asked for."""
    return replace(training_settings(options, device), perturb=False, noise=0.0, dual=options.dual)


def of_rule(name: str) -> bool:
    """Whether an entry of a field's state is what its learning rule holds, and no weight."""
    return name.startswith(RULE_PREFIX) or name.split(".")[-1] in HELD


def _shapes(state: dict[str, Any]) -> dict[str, torch.Size | None]:
    """Of tensors, by name; None for a rule's counters, whose number may differ between versions."""
    return {k: None if k.endswith("_extra_state") else getattr(v, "shape", None) for k, v in state.items()}


def training_poses(scene: Scene) -> Float[Tensor, "views 3 4"]:
    return scene.cameras.poses[list(scene.split["train"])]


def compare_cameras(poses: Any, scene: Scene, path: Path) -> None:
    """A caution where the checkpoint's training cameras (views, 3, 4) are not the scene's; None: it does not say."""
    now = training_poses(scene)
    alike = isinstance(poses, Tensor) and poses.shape == now.shape and torch.allclose(poses.to(now), now, 1e-3, 1e-3)
    if poses is None or alike:
        return
    message = f"{path} was trained on other cameras than those of {scene.name}: is this the scene?"
    warnings.warn(UserCaution(message), stacklevel=2)


def codec(model: RadianceModel, scene: Scene | None = None) -> ModelCodec:
    """The model's entries in a checkpoint: the networks' under nerf-pytorch's keys, the rules' beside them.

    scene: what it learns; its training cameras are kept too, and compared with those of a checkpoint that is loaded.
    """

    def entries() -> dict[str, Any]:
        state: dict[str, Any] = {RULE_KEY: {}}
        if scene is not None:
            state[POSES_KEY] = training_poses(scene)
        if model.occupancy is not None:
            state[OCCUPANCY_KEY] = model.occupancy.state_dict()
            state[ENDS_KEY] = model.ends
        for name, field in model.fields.items():
            weights = field.state_dict()
            state[STATE_KEYS[name]] = {k: v for k, v in weights.items() if not of_rule(k)}
            state[RULE_KEY][name] = {k: v for k, v in weights.items() if of_rule(k)}
        return state

    def load(contents: dict[str, Any], path: Path) -> None:
        if scene is not None:
            compare_cameras(contents.get(POSES_KEY), scene, path)
        rules = contents.get(RULE_KEY, {})
        model.ends = bool(contents.get(ENDS_KEY, False))
        if OCCUPANCY_KEY not in contents:  # of another program, or made without
            model.occupancy = None
        if model.occupancy is not None:
            load_weights(model.occupancy, contents[OCCUPANCY_KEY], f"{path} (occupancy)")
        for name, field in model.fields.items():
            weights = nerf_pytorch.own_weights(entry(contents, STATE_KEYS[name], path))
            # Of another program, or of another rule: keep the feedback drawn for this run.
            own = {k: v for k, v in field.state_dict().items() if of_rule(k)}
            held = rules.get(name, {})
            weights |= held if _shapes(held) == _shapes(own) else own
            load_weights(field, weights, f"{path} ({name} network)")

    return ModelCodec(entries, load)
