"""Every flag of train.py, in one table: name, type, default, help, and the modes that read it.

Names and meanings are nerf-pytorch's where it has the flag.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from nerf_dfa.errors import UserError
from nerf_dfa.fields.mlp import SKIP_AFTER
from nerf_dfa.learning import RULES
from nerf_dfa.learning.feedback import NORMALISATIONS
from nerf_dfa.learning.projection import PROJECTIONS
from nerf_dfa.scenes.load import FORMATS

# Of an encoding; of more, float32 holds no part of a wave.
MOST_FREQUENCIES = 24
# Cells of the occupancy along an axis: 134 million, two thirds of a gigabyte.
MOST_OCCUPANCY = 512

Condition = tuple[Callable[["Options"], bool], str]

EACH_RULES = ("dfa", "hdfa", "modular")
RANDOM_RULES = (*EACH_RULES, "drtp")
RANDOM: Condition = (lambda o: o.learning_rule in RANDOM_RULES, f"only {', '.join(RANDOM_RULES)} draw such a matrix")
EACH: Condition = (lambda o: o.learning_rule in EACH_RULES, f"only {', '.join(EACH_RULES)} draw one for each layer")
SELECTING: Condition = (lambda o: o.learning_rule != "drtp", "drtp has targets for all samples")
HYBRID: Condition = (lambda o: o.learning_rule == "hdfa", "only hdfa has exact steps among direct ones")
DIRECT_RULES = ("dfa", "dkp", "fdfa", "mdfa")
DIRECT: Condition = (
    lambda o: o.learning_rule in (*DIRECT_RULES, "hdfa"),
    f"only {', '.join(DIRECT_RULES)}, hdfa read it",
)
BRANCHED: Condition = (
    lambda o: DIRECT[0](o) and (o.field == "grid" or o.use_viewdirs),
    f"it needs {', '.join(DIRECT_RULES)} or hdfa, and layers that lead to the colour alone (use_viewdirs)",
)
# Not hdfa: its exact steps would not be exact with the gradients that these put in between.
DIRECT_MLP: Condition = (
    lambda o: o.field == "mlp" and o.learning_rule in DIRECT_RULES,
    f"it needs field = mlp and learning_rule = {', '.join(DIRECT_RULES)}",
)
LEARNED: Condition = (lambda o: o.learning_rule == "dkp", "only the feedback of dkp learns by a rate")
PROBED: Condition = (lambda o: o.learning_rule in ("fdfa", "mdfa"), "only fdfa and mdfa estimate their feedback")
TAUGHT: Condition = (lambda o: o.learning_rule == "mdfa", "only mdfa fits its feedback to more than the error")
MLP: Condition = (lambda o: o.field == "mlp", "field = grid does not read it")
GRID: Condition = (lambda o: o.field == "grid", "field = mlp does not read it")
GRID_FEEDBACK: Condition = (
    lambda o: o.field == "grid" and o.learning_rule in (*DIRECT_RULES, "modular"),
    f"it needs field = grid and learning_rule = {', '.join(DIRECT_RULES)}, modular",
)
KEPT: Condition = (lambda o: SELECTING[0](o) and o.error_kept < 1, "with error_kept = 1 all samples go back")
BOXED: Condition = (lambda o: o.field == "grid" or bool(o.occupancy), "it needs field = grid or an occupancy")
SKIPPING: Condition = (
    lambda o: o.occupancy != 0 and (o.field == "grid" or o.occupancy is not None),
    "nothing is skipped without an occupancy",
)
FINE: Condition = (lambda o: o.N_importance > 0, "N_importance = 0 trains no fine network")
FINE_MLP: Condition = (lambda o: o.N_importance > 0 and o.field == "mlp", "there is no fine MLP")
ENCODED: Condition = (
    lambda o: o.i_embed == 0 and o.field == "mlp",
    "it needs field = mlp and i_embed = 0",
)
ENCODED_VIEWS: Condition = (
    lambda o: o.field == "grid" or (o.i_embed == 0 and o.use_viewdirs),
    "it needs use_viewdirs and i_embed = 0",
)
DEEP: Condition = (
    lambda o: o.field == "mlp" and max(o.netdepth, o.netdepth_fine if o.N_importance else 0) > SKIP_AFTER + 1,
    f"it needs field = mlp of more than {SKIP_AFTER + 1} layers",
)
MLP_VIEWS: Condition = (lambda o: o.field == "mlp" and o.use_viewdirs, "it needs field = mlp and use_viewdirs")
PRECROP: Condition = (lambda o: o.precrop_iters > 0, "precrop_iters is 0")
RENDER_ONLY: Condition = (lambda o: o.render_only, "render_only is not set")
MOVING: Condition = (lambda o: o.path != "test", "--path test takes the test views' own poses")

# Flags by one name: above the config file, below those of the command line.
PRESETS = {
    # The method and the network of Launay et al. 2020; rates and steps are those of configs/blender and configs/llff.
    "paper": "--field mlp --learning_rule dfa --feedback uniform --netdepth 4 --netwidth 128 --netdepth_fine 4 "
    "--netwidth_fine 128 --use_viewdirs --feature_relu --density_activation relu --output_bias random "
    "--N_samples 64 --N_importance 128 --occupancy 0",
    # The best that was measured without transporting a weight, directly and from layer to layer: docs/results.md.
    "dfa-best": "--learning_rule mdfa --probe_first 100 --probe_every 2 --probe_average 0.2 --feedback_outputs own "
    "--feedback_block 4 --grid_gradient mirror --error_kept 0.9999 --output_bias mean",
    "mirror-best": "--learning_rule kp_mirror --error_kept 0.9999 --output_bias mean",
}

# What `learning` makes flags of.
LEARNERS = [*RULES, "dfa-best", "mirror-best"]


def learning(name: str) -> list[str]:
    """The flags of a learning rule, or of the preset that is one with all that belongs to it."""
    return ["--preset" if name in PRESETS else "--learning_rule", name]


def option(default: Any, text: str, *, choices: list[str] | None = None, when: Condition | None = None) -> Any:
    """A field of Options. when: the mode that reads it; given outside that mode it is an error."""
    return field(default=default, metadata={"help": text, "choices": choices, "when": when})


@dataclass
class Options:
    """Settings of a run. A value of None means: not set, the program finds one."""

    preset: str | None = option(
        None,
        "several flags at once, above the config file's and below your own; paper: the DFA paper's method and network; "
        "dfa-best and mirror-best: the best without weight transport, by direct feedback and from layer to layer",
        choices=list(PRESETS),
    )
    # where things are
    expname: str | None = option(None, "name of the run (default: the config file's name and the learning rule)")
    basedir: str = option("renders", "folder that holds the run folders")
    datadir: str = option("scenes/demo", "folder of the scene")
    # the scene
    dataset_type: str = option(
        "auto", "format of the scene; auto looks at the files, demo makes them", choices=["auto", "demo", *FORMATS]
    )
    shape: str | None = option(None, "which object of a DeepVoxels folder (default: the only one)")
    testskip: int = option(1, "load every Nth validation and test view")
    white_bkgd: bool = option(False, "composite transparent images over white, not black")
    half_res: bool = option(False, "load images at half their resolution")
    image_size: int | None = option(None, "load images at this width in pixels")
    factor: int = option(8, "downsampling factor of the images")
    llffhold: int = option(8, "every Nth view is a test view")
    no_ndc: bool = option(False, "keep rays in the world (scenes that are not forward-facing)")
    spherify: bool = option(False, "cameras stand around the scene")
    keep_world: bool = option(False, "leave poses as the file has them: neither centred nor scaled")
    near: float | None = option(None, "nearest depth of the scene (default: the format's)")
    far: float | None = option(None, "farthest depth of the scene (default: the format's)")
    pixel_offset: float = option(0.5, "where a pixel's ray passes: 0.5, its centre, or 0, its upper left corner")
    # the learning rule and the network
    learning_rule: str = option("dfa", "how the network learns", choices=list(RULES))
    feedback: str = option("uniform", "kind of the random feedback matrix", choices=list(PROJECTIONS), when=RANDOM)
    feedback_normalisation: str = option(
        "layer",
        "scale of each layer's signal by such a matrix: layer, max: one over the root of its, or of the widest "
        "layer's width; full: of its width times the outputs; none: 1",
        choices=list(NORMALISATIONS),
        when=RANDOM,
    )
    feedback_each: bool = option(
        False, "such a matrix of its own for each layer, in place of one that all share", when=EACH
    )
    exact_share: float = option(0.1, "hdfa: share of the steps that are backpropagation's, at random", when=HYBRID)
    feedback_outputs: str = option(
        "all",
        "outputs whose errors a layer's feedback is made of: all, or its own, those that it leads to",
        choices=["all", "own"],
        when=BRANCHED,
    )
    feedback_block: int = option(
        1,
        "of so many layers of the mlp the highest has direct feedback; the others get the delta of the layer above "
        "through a matrix that mirrors its weights",
        when=DIRECT_MLP,
    )
    probe_first: int = option(0, "fdfa, mdfa: network passes at the start that all estimate the feedback", when=PROBED)
    probe_every: int = option(5, "fdfa, mdfa: network passes from one estimate to the next", when=PROBED)
    probe_growth: float = option(
        0.0, "fdfa, mdfa: more of them as training goes on: at least this share of the passes so far", when=PROBED
    )
    probe_average: float = option(
        0.05,
        "fdfa, mdfa: weight of a new estimate; of fdfa the largest, and smaller where few samples have the error",
        when=PROBED,
    )
    conditional_feedback: bool = option(
        False,
        "mdfa: the feedback depends on the output, B_i(y) = B_i0 + sum_j sigmoid(y_j) B_ij",
        when=TAUGHT,
    )
    field: str = option(
        "mlp", "mlp: the paper's network; grid: feature grids and a small network", choices=["mlp", "grid"]
    )
    netdepth: int = option(8, "layers before the density", when=MLP)
    netwidth: int = option(256, "width of these layers", when=MLP)
    netdepth_fine: int = option(8, "the same for the fine network", when=FINE_MLP)
    netwidth_fine: int = option(256, "the same for the fine network", when=FINE_MLP)
    use_viewdirs: bool = option(False, "colour depends on the viewing direction", when=MLP)
    i_embed: int = option(0, "0: positional encoding; -1: none", when=MLP)
    linear_first: bool = option(False, "no ReLU after the first layer", when=MLP)
    feature_relu: bool = option(False, "a ReLU after the layer between density and colour", when=MLP_VIEWS)
    no_skip: bool = option(False, "the position is not read again after the fifth layer", when=DEEP)
    multires: int = option(10, "frequencies of the encoded position", when=ENCODED)
    multires_views: int = option(4, "frequencies of the encoded direction", when=ENCODED_VIEWS)
    grid_min: int = option(16, "resolution of the coarsest grid", when=GRID)
    grid_max: int = option(64, "resolution of the finest grid", when=GRID)
    grid_levels: int = option(3, "grids, their resolutions in geometric progression", when=GRID)
    grid_features: int = option(4, "features of each grid", when=GRID)
    grid_depth: float = option(1.0, "resolution along z as a share of that along x and y", when=GRID)
    grid_log2_table: int = option(
        19, "a grid with more corners than 2 to this power shares so many entries among them by a hash", when=GRID
    )
    grid_gradient: str = option(
        "feedback",
        "grids learn from their own projected error, or from the first layer's delta: times its weights (under mdfa "
        "their mirror), or a matrix that learns to be like them, by their updates (kp, Kolen and Pollack) or by their "
        "answers to noise (mirror)",
        choices=["feedback", "kp", "mirror", "first_layer"],
        when=GRID_FEEDBACK,
    )
    grid_width: int = option(64, "width of the two hidden layers behind the grids", when=GRID)
    bound: float | None = option(
        None, "half the side of the cube that grids and occupancy fill (default: from near and far)", when=BOXED
    )
    occupancy: int | None = option(
        None,
        "resolution of the grid that tells empty space, whose samples are skipped; 0: none (default: 64 for "
        "field = grid, 0 for mlp)",
    )
    density_activation: str = option(
        "softplus",
        "raw density to density: softplus(x - 2), the paper's relu, or instant-ngp's exp",
        choices=["softplus", "relu", "exp"],
    )
    activation: str = option("relu", "of the hidden layers", choices=["relu", "tanh", "silu", "sine"])
    output_bias: str = option(
        "mean",
        "a new field starts as fog of the photographs' mean colour, or with random biases near 0",
        choices=["mean", "random"],
    )
    # sampling
    N_samples: int = option(64, "coarse samples of a ray")
    N_importance: int = option(0, "additional samples of the fine network; 0: coarse network alone")
    perturb: float = option(1.0, "1: random sample positions while training; 0: fixed ones")
    lindisp: bool = option(False, "coarse samples equally spaced in disparity, not in depth")
    raw_noise_std: float = option(0.0, "standard deviation of the noise on the raw density while training")
    # training
    N_iters: int = option(200_000, "training steps")
    N_rand: int = option(32 * 32 * 4, "rays of a training step")
    N_points: int = option(
        0,
        "samples that a step evaluates, about: while space is not known to be empty it takes fewer rays than N_rand; "
        "0: as many as N_rand has",
        when=SKIPPING,
    )
    no_batching: bool = option(False, "take the rays of a step from one image")
    precrop_iters: int = option(0, "steps at the start that see only the middle of the images")
    precrop_frac: float = option(0.5, "fraction of the image that is this middle", when=PRECROP)
    lrate: float = option(5e-4, "learning rate of Adam")
    beta2: float = option(
        0.999, "what is left, after a step, of Adam's mean square: less forgets the large errors of the start sooner"
    )
    feedback_lrate: float | None = option(None, "the same for a feedback that learns (default: lrate)", when=LEARNED)
    grid_lrate: float | None = option(None, "the same for the features of grids (default: lrate)", when=GRID)
    warmup: int = option(0, "steps at the start in which only the top layers learn, whose gradient is exact")
    lrate_warmup: int = option(0, "steps at the start in which the learning rate rises from 0")
    lrate_decay: float = option(250.0, "the learning rate falls tenfold in this many thousand steps; 0: it is constant")
    seed: int = option(0, "seed of weights, feedback and training rays")
    device: str = option("auto", "where to compute", choices=["auto", "cpu", "cuda"])
    precision: str = option(
        "auto",
        "of matrix products (autocast); auto: bf16 where a short measurement finds it clearly faster",
        choices=["auto", "fp32", "bf16"],
    )
    no_reload: bool = option(False, "start anew even where the run folder has a checkpoint")
    ft_path: str | None = option(None, "checkpoint to start from, where the run folder has none")
    # rendering
    chunk: int = option(4096, "rays rendered at once; halved when memory runs out")
    error_kept: float = option(
        1.0,
        "share of the squared error at a network's outputs that goes back while training; the samples with the least "
        "are left out, which makes steps faster (try 0.9999)",
        when=SELECTING,
    )
    samples_back: float = option(
        0.25,
        "the largest share of samples that goes back; of more that err so many are drawn, the more likely the more "
        "they err, and count for the others",
        when=KEPT,
    )
    netchunk: int = option(0, "points sent through a network at once; 0: what suits the device")
    dual: str = option(
        "none",
        "NeRF-Dual, inference only: average both networks' pixels, or their raw outputs",
        choices=["none", "pixels", "raw"],
        when=FINE,
    )
    render_only: bool = option(False, "render from the run's last checkpoint; do not train")
    render_test: bool = option(False, "with render_only: the test views, not a camera path", when=RENDER_ONLY)
    render_factor: int = option(1, "divide the resolution of videos by this")
    path: str = option("auto", "camera path of videos", choices=["auto", "circle", "spiral", "test"])
    frames: int = option(40, "frames of a video", when=MOVING)
    fps: int = option(20, "frames per second of a video")
    # logs, each in steps; 0: never
    i_print: int = option(100, "interval of the numbers in TensorBoard")
    i_img: int = option(500, "interval of a small validation image and its PSNR in TensorBoard")
    i_alignment: int = option(0, "interval of measuring how the feedback points along the gradient")
    i_weights: int = option(10_000, "interval of checkpoints")
    i_testset: int = option(50_000, "interval of rendering all test views")
    i_video: int = option(50_000, "interval of rendering the video")


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
    natural = "occupancy N_points warmup lrate_warmup lrate_decay probe_first probe_growth N_importance raw_noise_std "
    natural += "precrop_iters netchunk multires multires_views i_print i_img i_alignment i_weights i_testset i_video"
    for name in positive:
        value = getattr(options, name)
        if value is not None and value <= 0:
            raise UserError(f"--{name} {value}: it has to be greater than 0")
    for name in natural.split():
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
