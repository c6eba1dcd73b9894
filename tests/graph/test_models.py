"""Networks: gradients under every rule against an explicit computation, and short trainings."""

import pytest
import torch
import torch.nn.functional as F

pytest.importorskip("torch_geometric", reason="pip install torch_geometric")

from nerf_dfa.graph.data import make_graph
from nerf_dfa.graph.models import DIRECT_RULES, GCN, MODELS, SEQUENTIAL_RULES
from nerf_dfa.graph.planetoid import read_planetoid
from nerf_dfa.graph.settings import Settings
from nerf_dfa.graph.task import fit, make_task, make_trainer
from nerf_dfa.learning.tapes import Tape
from nerf_dfa.training.checkpoints import checkpoint_path

PAIRS = [
    (model, rule)
    for model, kind in MODELS.items()
    for rule in DIRECT_RULES + (SEQUENTIAL_RULES if kind.sequential else ())
]


class Local(Tape):
    """Keeps the activations and cuts below them, and nothing else."""

    def __init__(self):
        self.activations = []

    def hidden(self, h):
        self.activations.append(h)
        return h.detach()


@pytest.mark.parametrize("name", MODELS)
def test_dfa_gives_every_layer_the_projected_error_at_the_logits(small, name):
    """Of each layer alone, with its input held, the gradient of sum(h_i * (e B_i)); e = softmax - target, by hand."""
    task = make_task(Settings("small", name), small, 0)
    model = make_trainer(Settings("small", name), task, 0).model
    model.eval()
    batch = task.batch(1, torch.Generator().manual_seed(0))
    task.loss(model, batch, torch.Generator())[0].backward()
    tape = Local()
    with model.rule.using(lambda: tape):
        y = model(task.graph)
    if name == "gae":
        a, b = task.links.edges["train"], batch
        up = [
            -torch.sigmoid(-(y[a[0]] * y[a[1]]).sum(1)) / a.shape[1],
            torch.sigmoid((y[b[0]] * y[b[1]]).sum(1)) / b.shape[1],
        ]
        error = torch.zeros_like(y)
        for slope, (i, j) in zip(up, (a, b), strict=True):
            error.index_add_(0, i, slope[:, None] * y[j])
            error.index_add_(0, j, slope[:, None] * y[i])
        error = error.detach()
    else:
        error = torch.zeros_like(y)
        error[batch] = ((y.softmax(1) - F.one_hot(task.graph.labels, 3))[batch] / len(batch)).detach()
    matrix = model.rule.feedback.projection.matrix
    surrogate = (y * error).sum()
    for h in tape.activations:
        surrogate = surrogate + (h * (error @ matrix[:, : h.shape[1]]) * h.shape[1] ** -0.5).sum()
    parameters = dict(model.named_parameters())
    expected = torch.autograd.grad(surrogate, list(parameters.values()))
    for (key, parameter), gradient in zip(parameters.items(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-4, atol=1e-6, msg=lambda m, key=key: f"{key}: {m}")


@pytest.mark.parametrize("rule", ["bp", "dfa", "shallow"])
def test_gcn_gradients_in_closed_form(small, rule):
    """With dense matrices: P = D^-1/2 (A + I) D^-1/2, y = P relu(P X W) V."""
    graph = make_graph("small", small, row_normalised=True)
    model = GCN(12, 3, rule)
    train = graph.parts["train"]
    F.cross_entropy(model(graph)[train], graph.labels[train]).backward()
    a = torch.eye(60).double()
    a[graph.edges[0], graph.edges[1]] = 1
    p = a / (a.sum(0) * a.sum(1)[:, None]).sqrt()
    x, w = graph.features.dense().double(), model.linear.weight.detach().double()
    v = model.top_linear.weight.detach().double().T
    z = p @ x @ w
    h = z.relu()
    y = p @ h @ v
    error = torch.zeros_like(y)
    error[train] = (y.softmax(1) - F.one_hot(graph.labels, 3))[train] / len(train)
    torch.testing.assert_close(model.top_linear.weight.grad, ((p @ h).T @ error).T.float())
    if rule == "shallow":
        assert model.linear.weight.grad is None
        return
    b = model.rule.feedback.projection.matrix.double()[:, :16] / 4 if rule == "dfa" else None
    signal = p.T @ error @ v.T if b is None else error @ b
    torch.testing.assert_close(model.linear.weight.grad, (x.T @ p.T @ (signal * (z > 0))).float())


@pytest.mark.parametrize(("name", "rule"), PAIRS)
def test_every_rule_trains_every_network(small, name, rule):
    settings = Settings("small", name, rule, dropout=0.2, attention_dropout=0.2 if name in ("gat", "dna") else 0.0)
    task = make_task(settings, small, 1)
    trainer = make_trainer(settings, task, 1)
    before = {key: p.detach().clone() for key, p in trainer.model.named_parameters()}
    scores = fit(trainer, 3)
    moved = {key for key, p in trainer.model.named_parameters() if not torch.equal(p, before[key])}
    top = {key for key in before if key.startswith("top_")}
    assert moved == (
        top if rule == "shallow" else set(before) - {k for k in before if k.startswith("rule.") and k not in moved}
    )
    assert all(torch.isfinite(p).all() for p in trainer.model.parameters())
    assert 0 <= scores[f"val_{task.score}"] <= 1
    again = make_trainer(settings, task, 1)
    assert fit(again, 3) == scores


@pytest.mark.parametrize("both", [True, False])
def test_features_are_dropped_unless_told_otherwise(small, both):
    """All of them here, so that what is left of the hidden layer is its bias."""
    settings = Settings("small", "gcn", "bp", dropout=0.999999, feature_dropout=both)
    task, seen = make_task(settings, small, 0), []
    model = make_trainer(settings, task, 0).model
    model.conv.register_forward_hook(lambda module, inputs, output: seen.append(output))
    model(task.graph)
    assert (seen[0] == model.conv.bias).all() == both


@pytest.mark.parametrize("name", ["gcn", "spline", "gat"])
@pytest.mark.parametrize("rule", ["bp", "dfa"])
def test_small_graph_is_learnt(small, name, rule):
    settings = Settings("small", name, rule, lr=0.05)
    scores = fit(make_trainer(settings, make_task(settings, small, 0), 0), 40)
    assert scores["test_accuracy"] > 0.8


@pytest.mark.parametrize(("rule", "low", "high"), [("bp", 0.75, 0.9), ("dfa", 0.72, 0.9), ("shallow", 0.1, 0.6)])
def test_cora_is_learnt(data, rule, low, high):
    root = data / "planetoid"
    if not (root / "Cora").is_dir():
        pytest.skip(f"no {root / 'Cora'}")
    settings = Settings("cora", "gcn", rule, lr=0.02)
    task = make_task(settings, read_planetoid("cora", root), 0)
    assert low < fit(make_trainer(settings, task, 0), 40)["test_accuracy"] < high


@pytest.mark.parametrize("name", ["gcn", "gat", "gae"])
@pytest.mark.parametrize("rule", ["dfa", "fdfa"])
def test_resumed_run_equals_an_unbroken_one(small, name, rule, tmp_path):
    settings = Settings("small", name, rule, dropout=0.5)
    task = make_task(settings, small, 0)
    whole = make_trainer(settings, task, 0)
    whole.run(6)
    first = make_trainer(settings, task, 0)
    first.run(3)
    first.save(tmp_path)
    second = make_trainer(settings, task, 5)
    second.load(checkpoint_path(tmp_path, 3))
    second.run(6)
    for a, b in zip(whole.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("name", MODELS)
def test_alignment_of_bp_is_one(small, name):
    settings = Settings("small", name, "bp")
    task = make_task(settings, small, 0)
    layers = task.alignment(make_trainer(settings, task, 0).model).layers
    assert len(layers) == (6 if name == "dna" else 1)
    assert all(layer.mean == pytest.approx(1, abs=1e-5) for layer in layers.values())


def test_only_training_nodes_get_a_signal(small):
    task = make_task(Settings("small", "gcn"), small, 0)
    layer = task.alignment(make_trainer(Settings("small", "gcn"), task, 0).model).layers["layer_0"]
    assert layer.samples <= len(task.graph.parts["train"]) == 15
    assert layer.samples + layer.undefined == 60


def test_weight_decay_of_cheb_and_gcn_is_the_first_layers(small):
    for name in ("cheb", "gcn", "spline", "gat"):
        settings = Settings("small", name, "dkp", weight_decay=0.1)
        trainer = make_trainer(settings, make_task(settings, small, 0), 0)
        decayed = {id(p) for g in trainer.optimizer.param_groups if g["weight_decay"] for p in g["params"]}
        names = {key for key, p in trainer.model.named_parameters() if id(p) in decayed}
        everything = {key for key, _ in trainer.model.named_parameters()}
        assert names == ({"linear.weight", "conv.bias"} if name in ("cheb", "gcn") else everything)


@pytest.mark.parametrize("name", ["gcn", "dna"])
@pytest.mark.parametrize("part", ["train", "val", "test"])
def test_nodes_of_a_part_have_the_logits_that_all_have(small, name, part):
    """And the loss the same gradients."""
    task = make_task(Settings("small", name, "bp"), small, 0)
    model, nodes = make_trainer(Settings("small", name, "bp"), task, 0).model.eval(), task.graph.parts[part]
    other = torch.randn(len(nodes), 3)
    asked, every = model(task.graph, part)[nodes], model(task.graph)[nodes]
    torch.testing.assert_close(asked, every)
    gradients = [torch.autograd.grad((y * other).sum(), list(model.parameters())) for y in (asked, every)]
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("name", ["gcn", "dna", "gae"])
def test_test_part_is_scored_at_the_best_epoch(small, name):
    """As if every part were scored at every epoch."""
    settings = Settings("small", name, lr=0.05)
    task = make_task(settings, small, 0)
    trainer, every = make_trainer(settings, task, 0), []
    for epoch in range(1, 9):
        trainer.run(epoch)
        every.append({**task.evaluate(trainer.model), "best_epoch": epoch})
    assert fit(make_trainer(settings, task, 0), 8) == max(every, key=lambda scores: scores[f"val_{task.score}"])


def test_unknown_rule_is_named():
    with pytest.raises(ValueError, match="DNA has no learning rule 'fa'"):
        MODELS["dna"](12, 3, "fa")
