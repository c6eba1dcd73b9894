"""Options that are out of range, or that a run would not read; and those that it reads, as text."""

from __future__ import annotations

import math
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

from nerf_dfa.errors import UserError
from nerf_dfa.nerf.options import Options
from nerf_dfa.scenes.load import FORMATS

# Of an encoding; of more, float32 holds no part of a wave.
MOST_FREQUENCIES = 24
# Cells of the occupancy along an axis: 134 million, two thirds of a gigabyte.
MOST_OCCUPANCY = 512


def check(options: Options) -> None:
    """UserError for a value outside its range."""
    for name, value in vars(options).items():
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"--{name} {value}: it has to be a finite number")
    name = Path(str(options.expname))
    if not name.parts or ".." in name.parts or name.is_absolute():
        raise UserError(f"--expname '{options.expname}': the name of a folder inside --basedir")
    positive = (
        "testskip image_size netdepth netwidth netdepth_fine netwidth_fine N_samples N_rand N_iters lrate chunk "
        "render_factor frames fps probe_every bound grid_min grid_max grid_levels grid_features grid_depth grid_width "
        "feedback_lrate grid_lrate probe_average feedback_block"
    ).split()
    natural = (
        "occupancy N_points warmup lrate_warmup lrate_decay weight_decay probe_first probe_growth N_importance "
        "raw_noise_std precrop_iters netchunk multires multires_views i_print i_img i_alignment i_weights i_testset "
        "i_video"
    ).split()
    for name in positive:
        value = getattr(options, name)
        if value is not None and value <= 0:
            raise UserError(f"--{name} {value}: it has to be greater than 0")
    for name in natural:
        if (getattr(options, name) or 0) < 0:
            raise UserError(f"--{name} {getattr(options, name)}: it cannot be negative")
    if not 0 < options.error_kept <= 1:
        raise UserError(f"--error_kept {options.error_kept}: a share, above 0 and at most 1")
    if not 0 < options.samples_back <= 1:
        raise UserError(f"--samples_back {options.samples_back}: a share, above 0 and at most 1")
    if not 0 <= options.exact_share <= 1:
        raise UserError(f"--exact_share {options.exact_share}: a share, from 0 to 1")
    if not 0 <= options.beta2 < 1:
        raise UserError(f"--beta2 {options.beta2}: from 0 to below 1")
    if options.probe_average > 1:
        raise UserError(f"--probe_average {options.probe_average}: a share, above 0 and at most 1")
    for name in ("multires", "multires_views"):
        if getattr(options, name) > MOST_FREQUENCIES:
            raise UserError(f"--{name} {getattr(options, name)}: at most {MOST_FREQUENCIES}, each twice the one before")
    if (options.occupancy or 0) > MOST_OCCUPANCY:
        raise UserError(f"--occupancy {options.occupancy}: at most {MOST_OCCUPANCY} cells along an axis")
    if not 0 <= options.seed < 1 << 62:
        raise UserError(f"--seed {options.seed}: from 0 to 2^62 - 1")
    narrow = min(options.netwidth, options.netwidth_fine if options.N_importance else options.netwidth)
    if options.field == "mlp" and options.use_viewdirs and narrow < 2:
        raise UserError("--netwidth 1 --use_viewdirs: the layer behind the view has half the width, of 2 at least")
    if options.i_embed not in (0, -1):
        raise UserError(f"--i_embed {options.i_embed}: 0 is the positional encoding, -1 none")
    if options.perturb not in (0, 1):
        raise UserError(f"--perturb {options.perturb}: it is 0 or 1")
    if not 0 <= options.pixel_offset <= 1:
        raise UserError(f"--pixel_offset {options.pixel_offset}: 0 and 1 are a pixel's edges, 0.5 is its centre")
    if not 0 < options.precrop_frac <= 1:
        raise UserError(f"--precrop_frac {options.precrop_frac}: a fraction of the image, above 0 and at most 1")
    if options.near is not None and options.far is not None and options.near >= options.far:
        raise UserError(f"--near {options.near} --far {options.far}: near has to be less than far")
    if not 2 <= options.grid_min <= options.grid_max:
        raise UserError(f"--grid_min {options.grid_min} --grid_max {options.grid_max}: 2 <= grid_min <= grid_max")
    if not 4 <= options.grid_log2_table <= 24:
        raise UserError(f"--grid_log2_table {options.grid_log2_table}: from 4 to 24, 16 million entries for each grid")
    if options.N_samples < 3 and options.N_importance > 0:
        raise UserError(f"--N_samples {options.N_samples}: a fine network needs at least 3 coarse samples")


def scene_flags(dataset_type: str) -> set[str]:
    """Names of the options that the loader of this format reads."""
    flags = {"no_ndc" if name == "ndc" else name for name in FORMATS[dataset_type].options}
    return flags & {f.name for f in fields(Options)}


def idle(options: Options) -> dict[str, str]:
    """Options that mean nothing beside the others, whatever the scene, and why."""
    conditions = {f.name: f.metadata["when"] for f in fields(Options)}
    return {name: when[1] for name, when in conditions.items() if when is not None and not when[0](options)}


def unread(options: Options, dataset_type: str) -> dict[str, str]:
    """Options that this run would not read, and why. dataset_type: the format found, never auto."""
    of_any = set().union(*map(scene_flags, FORMATS))
    return dict.fromkeys(of_any - scene_flags(dataset_type), f"{dataset_type} scenes do not read it") | idle(options)


def check_read(options: Options, given: set[str], dataset_type: str) -> None:
    """UserError if the user gave an option that this run would not read."""
    for name, reason in unread(options, dataset_type).items():
        if name in given:
            raise UserError(f"--{name} has no effect here: {reason}; leave it out")


def to_text(options: Options, dataset_type: str) -> str:
    """The options that a run reads, as a config file (args.txt)."""
    skip = unread(options, dataset_type)
    values = {f.name: getattr(options, f.name) for f in fields(Options) if f.name not in skip}
    return "".join(f"{name} = {_quoted(value)}\n" for name, value in sorted(values.items()) if value is not None)


def _quoted(value: Any) -> Any:
    """Text with spaces or marks that mean something in a config file, in quotes that it does not hold itself."""
    if not isinstance(value, str) or not re.search(r"[\s#;'\"]", value):
        return value
    return f"'{value}'" if '"' in value else f'"{value}"'
