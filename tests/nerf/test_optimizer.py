import pytest
import torch

from nerf_dfa.nerf.flags import parse
from nerf_dfa.nerf.model import build_model
from nerf_dfa.nerf.optimizer import make_optimizer, parameter_groups
from nerf_dfa.nerf.presets import learning
from nerf_dfa.training.checkpoints import load_optimizer
from nerf_dfa.training.schedules import exponential
from nerf_dfa.training.trainer import Trainer

BOX = torch.tensor([[-1.0] * 3, [1.0] * 3])
SMALL = "--netdepth 2 --netwidth 8 --netdepth_fine 2 --netwidth_fine 8 --use_viewdirs --N_importance 4".split()


def made(*flags):
    options, _, _ = parse(list(flags))
    return build_model(options, BOX), options


def names(model, group):
    chosen = {id(parameter) for parameter in group["params"]}
    return {name for name, parameter in model.named_parameters() if id(parameter) in chosen}


@pytest.mark.parametrize("rule", ["bp", "dfa", "dkp"])
def test_one_group_in_the_parameters_order_where_nothing_differs(rule):
    model, options = made(*SMALL, "--learning_rule", rule)
    (group,) = parameter_groups(model, options)
    assert [id(p) for p in group["params"]] == [id(p) for p in model.parameters()]
    assert (group["rate_scale"], group["start"]) == (1, 0)


@pytest.mark.parametrize("rule", ["bp", "hdfa"])
def test_beta2_is_this_runs_and_not_that_of_the_state_it_starts_from(rule):
    optimizers = [make_optimizer(*made(*SMALL, "--learning_rule", rule, "--beta2", beta)) for beta in ("0.9", "0.99")]
    assert load_optimizer(optimizers[1], optimizers[0].state_dict(), "a.tar")
    for optimizer, beta in zip(optimizers, (0.9, 0.99), strict=True):
        assert {g["square"] if rule == "hdfa" else g["betas"][1] for g in optimizer.param_groups} == {beta}


@pytest.mark.parametrize("rule", ["bp", "hdfa"])
def test_a_state_can_be_loaded_more_than_once(rule):
    model, options = made(*SMALL, "--learning_rule", rule)
    optimizer = make_optimizer(model, options)
    state = optimizer.state_dict()
    for _ in range(3):
        assert load_optimizer(optimizer, state, "a.tar")


def test_rates_of_the_feedback_and_of_the_grids():
    flags = "--field grid --learning_rule dkp --lrate 1e-2 --feedback_lrate 1e-3 --grid_lrate 3e-2".split()
    model, options = made(*flags)
    groups = {group["rate_scale"]: names(model, group) for group in parameter_groups(model, options)}
    assert sorted(groups) == pytest.approx([0.1, 1, 3])
    scales = {name: scale for scale, group in groups.items() for name in group}
    assert len(scales) == len(list(model.parameters()))
    for name, scale in scales.items():
        assert scale == pytest.approx(0.1 if ".rule." in name else 3 if ".grids." in name else 1), name


@pytest.mark.parametrize(
    ("flags", "heads"),
    [
        (SMALL, {"rgb_linear", "alpha_linear"}),
        ([flag for flag in SMALL if flag != "--use_viewdirs"], {"output_linear"}),
        (["--field", "grid"], {"colour_head", "density_head"}),
    ],
)
def test_in_the_warm_up_only_the_top_and_the_feedback_learn(flags, heads):
    model, options = made(*flags, "--learning_rule", "dkp", "--warmup", "7")
    starts = {group["start"]: names(model, group) for group in parameter_groups(model, options)}
    assert starts.keys() == {0, 7}
    for name in starts[0]:
        assert ".rule." in name or name.split(".")[-2] in heads, name
    for name in starts[7]:
        assert ".rule." not in name
        assert name.split(".")[-2] not in heads, name


def test_the_trainer_scales_rates_and_waits():
    class Sum:
        def batch(self, step, generator):
            return None

        def loss(self, model, batch, generator):
            return sum(p.sum() for p in model.parameters()), {}

        def evaluate(self, model):
            return {}

    model = torch.nn.ParameterList([torch.zeros(1), torch.zeros(1)])
    optimizer = torch.optim.SGD([{"params": [model[0]], "rate_scale": 0.5}, {"params": [model[1]], "start": 2}], lr=1.0)
    trainer = Trainer(model, Sum(), optimizer, exponential(1.0, 1.0), torch.Generator())
    seen = []
    for _ in range(4):
        trainer.step()
        seen.append([p.item() for p in model])
    # Rates 1, 0.1, 0.01, 0.001; every gradient is 1.
    expected = [[-0.5, 0], [-0.55, 0], [-0.555, -0.01], [-0.5555, -0.011]]
    torch.testing.assert_close(torch.tensor(seen), torch.tensor(expected))


def test_adam_is_fused():
    model, options = made(*SMALL)
    assert make_optimizer(model, options).defaults["fused"]


@pytest.mark.parametrize("field", [SMALL, ["--field", "grid"]])
@pytest.mark.parametrize("learner", ["bp", "dkp", "kp_mirror", "mirror-best", "dfa-best"])
def test_matrices_of_the_networks_decay_and_nothing_else(field, learner):
    """By W <- (1 - rate decay) W - rate m / (sqrt(v) + eps), where of no gradient m is 0."""
    model, options = made(*field, *learning(learner), "--weight_decay", "0.5", "--lrate", "1e-2")
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    make_optimizer(model, options).step()
    for name, parameter in model.named_parameters():
        decays = parameter.dim() > 1 and ".rule." not in name and ".grids." not in name
        torch.testing.assert_close(parameter, before[name] * (1 - 1e-2 * 0.5 if decays else 1), msg=name)


def test_a_mirror_that_learns_by_the_updates_decays_with_its_weights():
    """As in Kolen and Pollack (1994), where it is what brings the two together."""
    model, options = made(*SMALL, "--learning_rule", "kp_mirror", "--weight_decay", "0.5")
    (decaying,) = (names(model, group) for group in parameter_groups(model, options) if group["weight_decay"])
    backs = {name for name, _ in model.named_parameters() if name.endswith(".back")}
    assert backs
    assert backs <= decaying


def test_weights_decay_as_this_run_says_and_not_as_the_state_it_starts_from():
    kept, own = (make_optimizer(*made(*SMALL, "--learning_rule", "bp", "--weight_decay", d)) for d in ("0.5", "0.1"))
    assert load_optimizer(own, kept.state_dict(), "a.tar")
    assert sorted(group["weight_decay"] for group in own.param_groups) == [0, 0.1]
    assert all(group["decoupled_weight_decay"] for group in own.param_groups)
