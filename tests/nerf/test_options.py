"""Flags and config files: nerf-pytorch's meanings, and one line for every mistake."""

from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch

from nerf_dfa.errors import UserError
from nerf_dfa.learning import RULES
from nerf_dfa.learning.feedback import Feedback, IndependentFeedback
from nerf_dfa.learning.sequential import SequentialLinear
from nerf_dfa.nerf.checks import check_read, scene_flags, to_text
from nerf_dfa.nerf.conditions import EACH_RULES
from nerf_dfa.nerf.flags import parse
from nerf_dfa.nerf.model import build_model, training_settings
from nerf_dfa.nerf.options import Options
from nerf_dfa.nerf.presets import LEARNERS, PRESETS, learning
from nerf_dfa.nerf.run import check_kept, options_from_text, read_args, write_args
from nerf_dfa.scenes.load import FORMATS

CONFIGS = Path(__file__).parents[2] / "configs"

# The flags of nerf-pytorch that keep their names here.
NERF_PYTORCH = """
expname basedir datadir dataset_type netdepth netwidth netdepth_fine netwidth_fine N_rand lrate lrate_decay chunk
netchunk no_batching no_reload ft_path N_samples N_importance perturb use_viewdirs i_embed multires multires_views
raw_noise_std render_only render_test render_factor precrop_iters precrop_frac testskip white_bkgd half_res factor
llffhold no_ndc lindisp spherify i_print i_img i_weights i_testset i_video
""".split()

# What its two kinds of config files hold, typed in again.
BLENDER_FILE = """
expname = blender_paper_lego
basedir = ./logs
datadir = ./data/nerf_synthetic/lego
dataset_type = blender
no_batching = True
use_viewdirs = True
white_bkgd = True
lrate_decay = 500
N_samples = 64
N_importance = 128
N_rand = 1024
precrop_iters = 500
precrop_frac = 0.5
half_res = True
"""
LLFF_FILE = """
expname = fern_test
basedir = ./logs
datadir = ./data/nerf_llff_data/fern
dataset_type = llff
factor = 8
llffhold = 8
N_rand = 1024
N_samples = 64
N_importance = 64
use_viewdirs = True
raw_noise_std = 1e0
"""


def write(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


def test_every_flag_of_nerf_pytorch_is_there():
    assert set(NERF_PYTORCH) <= {f.name for f in fields(Options)}


def test_a_blender_config_of_nerf_pytorch_reads_unchanged(tmp_path):
    options, given, _ = parse(["--config", write(tmp_path / "lego.txt", BLENDER_FILE)])
    check_read(options, given, "blender")
    assert (options.expname, options.basedir) == ("blender_paper_lego", "./logs")
    assert options.no_batching
    assert options.white_bkgd
    assert options.half_res
    assert (options.N_samples, options.N_importance, options.N_rand) == (64, 128, 1024)
    assert (options.lrate, options.lrate_decay, options.precrop_iters) == (5e-4, 500, 500)


def test_an_llff_config_of_nerf_pytorch_reads_unchanged(tmp_path):
    options, given, _ = parse(["--config", write(tmp_path / "fern.txt", LLFF_FILE)])
    check_read(options, given, "llff")
    assert (options.factor, options.llffhold, options.raw_noise_std) == (8, 8, 1.0)
    assert not options.no_ndc


def test_the_command_line_wins_over_the_file(tmp_path):
    path = write(tmp_path / "a.txt", "N_rand = 7\nuse_viewdirs = False\n# a remark\nN_samples = 5\n")
    options, given, _ = parse(["--config", path, "--N_rand", "9"])
    assert (options.N_rand, options.N_samples, options.use_viewdirs) == (9, 5, False)
    assert {"N_rand", "N_samples"} <= given


SCENE_FOLDERS = ("blender", "fast", "llff")  # others are of other programs
SCENE_CONFIGS = sorted([*CONFIGS.glob("*.txt"), *(p for f in SCENE_FOLDERS for p in (CONFIGS / f).glob("*.txt"))])


@pytest.mark.parametrize("path", SCENE_CONFIGS, ids=lambda p: str(p.relative_to(CONFIGS)))
def test_every_config_loads_and_holds_nothing_unread(path):
    options, given, _ = parse(["--config", str(path)])
    kind = {"demo": "blender", "auto": "llff"}.get(options.dataset_type, options.dataset_type)
    check_read(options, given, kind)
    name = "demo" if options.dataset_type == "auto" else path.stem  # of whatever scene it is given
    assert options.expname == f"{name}_{options.learning_rule}"


@pytest.mark.parametrize("learner", [*LEARNERS, "paper"])
def test_args_txt_says_all_that_a_run_of_a_config_and_a_learner_does(learner):
    """What means nothing beside the others is not in it, and must not do anything."""
    of_scenes = set().union(*map(scene_flags, FORMATS)) - scene_flags("blender")
    for path in SCENE_CONFIGS:
        options, _, _ = parse(["--config", str(path), *learning(learner)])
        options = replace(options, **{name: getattr(Options(), name) for name in of_scenes})
        assert options_from_text(to_text(options, "blender"), path) == options


def test_there_is_a_config_for_each_blender_scene():
    scenes = "chair drums ficus hotdog lego materials mic ship".split()
    assert {p.stem for p in (CONFIGS / "blender").glob("*.txt")} >= set(scenes)


def test_without_scene_or_config_the_default_config_is_read(tmp_path):
    default = Path(write(tmp_path / "demo.txt", "N_rand = 11\n"))
    assert parse([], default)[0].N_rand == 11
    assert parse(["--learning_rule", "bp"], default)[0].expname == "demo_bp"
    assert parse(["--datadir=x"], default)[0].N_rand == 4096


def test_what_the_command_line_makes_a_files_line_mean_nothing_for_is_no_mistake(tmp_path):
    path = write(tmp_path / "a.txt", "field = grid\ngrid_max = 32\nmultires_views = 2\ngrid_gradient = kp\n")
    for argv in (["--field", "mlp"], ["--preset", "paper"], ["--learning_rule", "bp"]):
        options, given, _ = parse(["--config", path, *argv])
        check_read(options, given, "blender")
    # A mistake of the file's own is one still, and so is the command line's.
    wrong = write(tmp_path / "b.txt", "field = mlp\ngrid_max = 32\n")
    for argv in (["--config", wrong], ["--config", path, "--field", "mlp", "--grid_max", "48"]):
        options, given, _ = parse(argv)
        with pytest.raises(UserError, match=r"^--grid_max has no effect here: "):
            check_read(options, given, "blender")


def test_a_config_of_no_scene_leaves_the_name_to_the_scene(tmp_path):
    path = write(tmp_path / "any.txt", "N_rand = 7\n")
    assert parse(["--config", path, "--datadir", "a/garden/"])[0].expname == "garden_dfa"
    path = write(tmp_path / "lego.txt", "datadir = scenes/lego\n")
    assert parse(["--config", path, "--datadir", "a/garden"])[0].expname == "lego_dfa"


def test_args_txt_is_read_back_as_it_was_written(tmp_path):
    text = BLENDER_FILE + "seed = 4\nimage_size = 50\n".replace("image_size = 50\n", "")
    options, _, config = parse(["--config", write(tmp_path / "lego.txt", text)])
    write_args(tmp_path / "run", options, "blender", config)
    assert read_args(tmp_path / "run") == options
    assert (tmp_path / "run" / "config.txt").read_text() == text
    assert "factor" not in [line.split(" = ")[0] for line in to_text(options, "blender").splitlines()]


@pytest.mark.parametrize("name", ["tiny # old", "a; b", "it's", 'a "b" # c', " a ", "a=b", "ä/b", "# a", "a'", "[a]b"])
def test_names_with_marks_are_read_back_as_they_were(tmp_path, name):
    options, _, _ = parse(["--datadir", name, "--expname", name])
    check_kept(options, "blender")
    write_args(tmp_path / "run", options, "blender", None)
    assert read_args(tmp_path / "run") == options


@pytest.mark.parametrize("name", ["[a]", "a\nb"])
def test_names_that_cannot_be_kept_are_refused(name):
    options, _, _ = parse(["--datadir", name, "--expname", "a"])
    with pytest.raises(UserError, match=r"^--datadir .* cannot be kept in args\.txt; choose another$"):
        check_kept(options, "blender")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--no_such_flag", "3"], "no_such_flag"),
        (["--N_rand", "many"], "--N_rand: invalid int value: 'many'"),
        (["--N_rand", "0"], "--N_rand 0: it has to be greater than 0"),
        (["--lrate", "-1"], "--lrate -1.0"),
        (["--i_print", "-5"], "--i_print -5: it cannot be negative"),
        (["--lrate", "nan"], "--lrate nan: it has to be a finite number"),
        (["--bound", "inf"], "--bound inf: it has to be a finite number"),
        (["--multires", "25"], "--multires 25: at most 24"),
        (["--seed", "99999999999999999999"], "--seed 99999999999999999999: from 0 to"),
        (["--netwidth", "1", "--use_viewdirs"], "--netwidth 1 --use_viewdirs"),
        (["--learning_rule", "hdfa", "--exact_share", "1.5"], "--exact_share 1.5: a share, from 0 to 1"),
        (["--learning_rule", "magic"], "--learning_rule: invalid choice: 'magic'"),
        (["--dataset_type", "magic"], "--dataset_type: invalid choice"),
        (["--perturb", "0.5"], "--perturb 0.5"),
        (["--i_embed", "3"], "--i_embed 3"),
        (["--precrop_frac", "1.5"], "--precrop_frac 1.5"),
        (["--error_kept", "0"], "--error_kept 0"),
        (["--error_kept", "1.1"], "--error_kept 1.1"),
        (["--error_kept", "0.9", "--samples_back", "0"], "--samples_back 0"),
        (["--near", "3", "--far", "2"], "near has to be less than far"),
        (["--config", "/nowhere/a.txt"], "/nowhere/a.txt"),
        (["--N_ra", "8"], "N_ra"),
        (["--beta2", "1"], "--beta2 1.0: from 0 to below 1"),
        (["--expname", ""], "--expname '': the name of a folder inside --basedir"),
        (["--expname", "."], "--expname '.'"),
        (["--expname", "a/../.."], "--expname 'a/../..'"),
        (["--expname", "/tmp/a"], "--expname '/tmp/a'"),
        (["--field", "grid", "--occupancy", "100000"], "--occupancy 100000: at most 512"),
    ],
)
def test_a_wrong_flag_gives_one_line_that_names_it(argv, message):
    with pytest.raises(UserError) as caught:
        parse(argv)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("N_rand = 4\nlearning_rate = 3\n", "learning_rate"),
        ("N_rand = 4\njust some words in a line\n", "a.txt"),
        ("N_rand = many\n", "many"),
        ("white_bkgd = perhaps\n", "white_bkgd"),
    ],
)
def test_a_wrong_line_in_a_config_gives_one_line_that_names_it(tmp_path, text, message):
    with pytest.raises(UserError) as caught:
        parse(["--config", write(tmp_path / "a.txt", text)])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_config_that_is_no_text_gives_one_line(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"# sc\xe8ne\nN_rand = 4\n")
    with pytest.raises(UserError, match=r"^\S*a\.txt: cannot be read as text: [^\n]*$"):
        parse(["--config", str(tmp_path / "a.txt")])


@pytest.mark.parametrize(
    ("argv", "kind", "name"),
    [
        (["--factor", "8"], "blender", "factor"),
        (["--spherify"], "blender", "spherify"),
        (["--half_res"], "llff", "half_res"),
        (["--testskip", "2"], "llff", "testskip"),
        (["--netdepth_fine", "3"], "blender", "netdepth_fine"),
        (["--dual", "pixels"], "blender", "dual"),
        (["--multires", "3", "--i_embed", "-1"], "blender", "multires"),
        (["--multires_views", "3"], "blender", "multires_views"),
        (["--precrop_frac", "0.3"], "blender", "precrop_frac"),
        (["--render_test"], "blender", "render_test"),
        (["--path", "test", "--frames", "3"], "blender", "frames"),
        (["--feedback_outputs", "own"], "blender", "feedback_outputs"),
        (["--no_skip", "--netdepth", "5"], "blender", "no_skip"),
        (["--learning_rule", "bp", "--feedback_each"], "blender", "feedback_each"),
        (["--learning_rule", "drtp", "--feedback_each"], "blender", "feedback_each"),
        (["--learning_rule", "drtp", "--error_kept", "0.9"], "blender", "error_kept"),
        (["--learning_rule", "drtp", "--feedback_outputs", "own"], "blender", "feedback_outputs"),
        (["--learning_rule", "dkp", "--feedback_normalisation", "none"], "blender", "feedback_normalisation"),
    ],
)
def test_a_flag_that_the_mode_would_not_read_is_refused(argv, kind, name):
    options, given, _ = parse(argv)
    with pytest.raises(UserError, match=f"^--{name} has no effect here: "):
        check_read(options, given, kind)


def test_a_preset_stands_above_the_config_file_and_below_the_command_line(tmp_path):
    config = tmp_path / "c.txt"
    config.write_text("learning_rule = bp\noutput_bias = random\nlrate = 3e-3\n")
    options, asked, _ = parse(["--config", str(config), "--preset", "dfa-best", "--probe_every", "9"])
    assert (options.learning_rule, options.output_bias, options.probe_every) == ("mdfa", "mean", 9)
    assert options.lrate == 3e-3
    assert options.preset is None  # settled: the run's args.txt has the flags themselves
    # What a preset says and the mode does not read is no mistake of the user's.
    assert asked == {"learning_rule", "output_bias", "lrate", "probe_every"}


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("field", ["mlp", "grid"])
def test_presets_are_whole(name, field):
    options, asked, _ = parse(["--preset", name, "--field", field])
    check_read(options, asked, "blender")
    assert options.field == field


@pytest.mark.parametrize(("rule", "layer"), [("bp", torch.nn.Linear), ("fdfa", SequentialLinear)])
def test_a_presets_grid_gradient_leaves_backpropagation_alone(rule, layer):
    options, _, _ = parse(["--preset", "dfa-best", "--field", "grid", "--learning_rule", rule])
    assert type(build_model(options).coarse.density_hidden) is layer


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("field", ["mlp", "grid"])
def test_any_rule_may_stand_beside_a_preset(rule, preset, field):
    argv = ["--preset", preset, "--learning_rule", rule, "--field", field]
    options, asked, _ = parse(argv)
    check_read(options, asked, "blender")
    build_model(options)
    training_settings(options, torch.device("cpu"))


@pytest.mark.parametrize("rule", EACH_RULES)
def test_flags_of_the_random_matrices(rule):
    argv = f"--learning_rule {rule} --netdepth 3 --netwidth 8 --feedback_each --feedback_normalisation none".split()
    feedback = [
        module
        for module in build_model(parse(argv)[0], torch.tensor([[-1.0] * 3, [1.0] * 3])).modules()
        if isinstance(module, Feedback)
    ]
    assert all(isinstance(f, IndependentFeedback) and f.normalisation == "none" for f in feedback)
    assert sum(len(f.projections) for f in feedback) == 3


def test_the_papers_preset_is_its_network():
    options, _, _ = parse(["--preset", "paper"])
    model = build_model(options)
    assert [sum(p.numel() for p in field.parameters()) for field in model.fields.values()] == [84_548, 84_548]


def test_the_papers_preset_brings_its_optimiser_where_the_config_is_of_a_grid_field():
    """The demo's rates are forty times as high, and no network of the paper's kind learns by them."""
    argv = ["--config", str(CONFIGS / "demo.txt"), "--preset", "paper"]
    options, _, _ = parse(argv)
    assert (options.field, options.lrate, options.beta2, options.multires_views) == ("mlp", 5e-4, 0.999, 4)
    assert parse([*argv, "--lrate", "1e-4"])[0].lrate == 1e-4


def test_what_a_preset_makes_a_files_line_mean_nothing_for_does_nothing(tmp_path):
    path = write(tmp_path / "a.txt", "compile = True\nweight_decay = 0.5\ngrid_max = 32\nfield = grid\n")
    assert parse(["--config", path])[0].compile
    assert not parse(["--config", path, "--preset", "dfa-best"])[0].compile  # it would lose what it estimates
    assert parse(["--config", path, "--learning_rule", "hdfa"])[0].weight_decay == 0
    assert parse(["--config", path, "--field", "mlp"])[0].grid_max == Options().grid_max


def test_points_of_a_step_mean_something_without_an_occupancy_too():
    options, given, _ = parse(["--N_points", "2000", "--occupancy", "0"])
    check_read(options, given, "blender")
    assert "N_points = 2000" in to_text(options, "blender")
