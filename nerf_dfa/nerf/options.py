"""Every flag of train.py, in one table: name, type, default, help, and the modes that read it.

Names and meanings are nerf-pytorch's where it has the flag.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from nerf_dfa.learning import RULES
from nerf_dfa.learning.feedback import NORMALISATIONS
from nerf_dfa.learning.projection import PROJECTIONS
from nerf_dfa.nerf.conditions import (
    ADAM,
    BOXED,
    BRANCHED,
    COMPILED,
    DEEP,
    DIRECT_MLP,
    EACH,
    ENCODED,
    ENCODED_VIEWS,
    FINE,
    FINE_MLP,
    GRID,
    GRID_FEEDBACK,
    HYBRID,
    KEPT,
    LEARNED,
    MLP,
    MLP_VIEWS,
    MOVING,
    PRECROP,
    PROBED,
    RANDOM,
    RENDER_ONLY,
    SELECTING,
    TAUGHT,
    Condition,
)
from nerf_dfa.nerf.presets import PRESETS
from nerf_dfa.scenes.load import FORMATS


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
        "samples that a step evaluates, about: while space is not known to be empty, without an occupancy always, it "
        "takes fewer rays than N_rand; 0: as many as N_rand has",
    )
    no_batching: bool = option(False, "take the rays of a step from one image")
    precrop_iters: int = option(0, "steps at the start that see only the middle of the images")
    precrop_frac: float = option(0.5, "fraction of the image that is this middle", when=PRECROP)
    lrate: float = option(5e-4, "learning rate of Adam")
    beta2: float = option(
        0.999, "what is left, after a step, of Adam's mean square: less forgets the large errors of the start sooner"
    )
    weight_decay: float = option(
        0.0, "share of the networks' weights, times the learning rate, that a step takes away (AdamW)", when=ADAM
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
    compile: bool = option(
        False,
        "networks through torch.compile, which takes up to a minute before the first step; on a CPU steps become no "
        "faster",
        when=COMPILED,
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
    render_test: bool = option(
        False, "with render_only: the test views in full size, not a camera path", when=RENDER_ONLY
    )
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
