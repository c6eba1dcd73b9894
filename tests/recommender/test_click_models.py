"""Networks: gradients under the rules against an explicit computation in float64."""

import pytest
import torch
import torch.nn.functional as F

from nerf_dfa.learning.tapes import Tape
from nerf_dfa.recommender.models import DIRECT_RULES, MODELS, Shape
from nerf_dfa.recommender.optimizer import LazyAdam

FIELDS, VALUES, ROWS = 5, 40, 30
DEEP = [name for name in MODELS if name != "fm"]
# What every rule teaches, by its exact gradient.
EXACT = {
    "deepfm": ("first_order.", "embedding.", "top."),
    "dcn": ("top.",),
    "afn": ("first_order.", "top."),
    "autoint": ("first_order.", "top."),
}


@pytest.fixture(autouse=True)
def _double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def small(name, rule, sparse=False, **options):
    own = {"dcn": {"cross_layers": 3}, "afn": {"neurons": 6}, "autoint": {"attention_width": 6, "attention_layers": 2}}
    torch.manual_seed(0)
    shape = Shape(FIELDS, VALUES, width=4, mlp=(8, 6), sparse=sparse)
    model = MODELS[name](shape, rule, **{**own.get(name, {}), **options})
    for parameter in model.parameters():  # none at the special values where training begins
        torch.nn.init.normal_(parameter, std=0.5)
    return model.eval()


def batch(rows=ROWS):
    generator = torch.Generator().manual_seed(1)
    fields = torch.randint(VALUES // FIELDS, (rows, FIELDS), generator=generator)
    fields += torch.arange(FIELDS) * (VALUES // FIELDS)
    return fields, torch.randint(2, (rows,), generator=generator).double()


def loss(model, **options):
    fields, labels = batch(**options)
    return F.binary_cross_entropy_with_logits(model(fields), labels)


class Local(Tape):
    """Keeps the activations and cuts below them, and nothing else."""

    def __init__(self):
        self.activations = []

    def hidden(self, h):
        self.activations.append(h)
        return h.detach()


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("name", "options"), [*((n, {}) for n in DEEP), ("deepfm", {"embedding_point": True})])
def test_dfa_gives_every_layer_the_projected_error_at_the_logit(name, options, training):
    """Of each layer alone, its input held, the gradient of sum(h_i * (e B_i)); e = (sigmoid - label) / rows."""
    model = small(name, "dfa", **options).train(training)
    loss(model).backward()
    fields, labels = batch()
    tape = Local()
    with model.rule.using(lambda: tape):
        y = model(fields)
    error = ((y.sigmoid() - labels) / ROWS).detach()[:, None]
    matrix = model.rule.feedback.projection.matrix
    surrogate = (y[:, None] * error).sum()
    assert [h.shape[1] for h in tape.activations] == model.feedback_widths
    for h in tape.activations:
        surrogate = surrogate + (h * (error @ matrix[:, : h.shape[1]]) * h.shape[1] ** -0.5).sum()
    parameters = dict(model.named_parameters())
    expected = torch.autograd.grad(surrogate, list(parameters.values()))
    for (key, parameter), gradient in zip(parameters.items(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, msg=lambda m, key=key: f"{key}: {m}")


def by_hand(model):
    """Of dfa with kp: gradients of the powers W and of the embedding, which gets (delta at the powers) @ R."""
    fields, labels = batch()
    with torch.no_grad():
        error = ((model(fields).sigmoid() - labels) / ROWS)[:, None]
    signal = error @ model.rule.feedback.projection.matrix[:, : model.feedback_widths[0]]
    table, layer = model.embedding.weight, model.powers.powers
    logarithms = model.logarithms(table[fields])
    z = torch.einsum("bfd,nf->bnd", logarithms, layer.weight)
    neurons = model.powers.norm(z.exp()).flatten(1)
    delta, powers = torch.autograd.grad(
        neurons, (z, layer.weight), signal * neurons.shape[1] ** -0.5, retain_graph=True
    )
    below = torch.einsum("bnd,nf->bfd", delta, layer.back.detach())
    return powers, torch.autograd.grad(logarithms, table, below)[0]


@pytest.mark.parametrize("training", [True, False])
def test_afns_embedding_gets_the_neurons_signal_by_a_matrix_of_its_own(training):
    model = small("afn", "dfa", embedding_gradient="kp").train(training)
    layer = model.powers.powers
    assert model.feedback_widths == [6 * 4, 8, 6]
    assert not torch.equal(layer.back, layer.weight)
    powers, embedding = by_hand(model)
    loss(model).backward()
    torch.testing.assert_close(layer.weight.grad, powers)
    torch.testing.assert_close(layer.back.grad, powers)
    torch.testing.assert_close(model.embedding.weight.grad, embedding)


def test_the_matrix_to_afns_embedding_learns_by_the_powers_updates():
    """R <- R - rate (dW + decay R): what W and R differ by decays, whatever the gradients; without decay it stays."""
    model, rate, decay = small("afn", "dfa", embedding_gradient="kp"), 0.2, 0.5
    layer = model.powers.powers
    matrix, apart = layer.back.detach().clone(), (layer.weight - layer.back).detach()
    optimizer = torch.optim.SGD(model.parameters(), rate, weight_decay=decay)
    for _ in range(5):
        matrix -= rate * (by_hand(model)[0] + decay * matrix)
        optimizer.zero_grad()
        loss(model).backward()
        optimizer.step()
    torch.testing.assert_close(layer.back.detach(), matrix)
    torch.testing.assert_close((layer.weight - layer.back).detach(), apart * (1 - rate * decay) ** 5)
    apart, optimizer = (layer.weight - layer.back).detach(), LazyAdam(model.parameters(), lr=0.01)
    for _ in range(5):
        optimizer.zero_grad()
        loss(model).backward()
        optimizer.step()
    torch.testing.assert_close((layer.weight - layer.back).detach(), apart)


def test_a_mirror_sends_afns_embedding_what_the_powers_themselves_would():
    model = small("afn", "dfa", embedding_gradient="mirror").train()
    layer = model.powers.powers
    for _ in range(30):
        model.zero_grad()
        loss(model).backward()
    torch.testing.assert_close(layer.back, layer.weight.detach())
    _, embedding = by_hand(model)
    torch.testing.assert_close(model.embedding.weight.grad, embedding)


@pytest.mark.parametrize("name", MODELS)
def test_bp_is_the_derivative_of_the_loss(name):
    """In a random direction of all parameters, against a difference quotient."""
    model = small(name, "bp")
    loss(model).backward()
    parameters = list(model.parameters())
    direction = [torch.randn_like(p) for p in parameters]
    slope = sum((p.grad * d).sum() for p, d in zip(parameters, direction, strict=True))
    values = []
    for step in (1e-6, -1e-6):
        with torch.no_grad():
            for p, d in zip(parameters, direction, strict=True):
                p.add_(d, alpha=step)
            values.append(loss(model))
            for p, d in zip(parameters, direction, strict=True):
                p.sub_(d, alpha=step)
    assert float(slope) == pytest.approx(float(values[0] - values[1]) / 2e-6, rel=1e-4)


def test_deepfm_under_bp_in_closed_form():
    """One row, no norm: the embedding's gradient through the FM and through the MLP, by hand."""
    torch.manual_seed(0)
    model = MODELS["deepfm"](Shape(2, 4, width=3, mlp=(5,), norm="none"), "bp")
    fields = torch.tensor([[1, 2]])
    model(fields).backward()
    v = model.embedding.weight.detach()[[1, 2]]
    linear, top = model.mlp.blocks[0][0], model.top.weight.detach()[0]
    active = (linear(v.flatten()) > 0).double().detach()
    through = ((top * active) @ linear.weight.detach()).view(2, 3)
    torch.testing.assert_close(model.embedding.weight.grad[[1, 2]], v.flip(0) + through)
    assert model.first_order.weights.weight.grad[:, 0].tolist() == [0, 1, 1, 0]


@pytest.mark.parametrize("rule", DIRECT_RULES[1:])
@pytest.mark.parametrize("name", DEEP)
def test_what_needs_no_feedback_has_its_exact_gradient(name, rule):
    model, exact = small(name, rule), small(name, "bp")
    exact.load_state_dict({key: value for key, value in model.state_dict().items() if not key.startswith("rule")})
    loss(model).backward()
    if name == "deepfm":  # whose embedding also feeds the MLP: the exact gradient through the FM alone
        with torch.no_grad():
            before = exact(batch()[0])
        read = exact.embedding(batch()[0])
        deep = exact.top(exact.mlp(read.detach().flatten(1), Tape()))
        pair = 0.5 * (read.sum(1) ** 2 - (read**2).sum(1)).sum(1)
        y = exact.first_order(batch()[0])[:, 0] + pair + deep[:, 0]
        torch.testing.assert_close(y, before)
        F.binary_cross_entropy_with_logits(y, batch()[1]).backward()
    else:
        loss(exact).backward()
    for (key, parameter), other in zip(exact.named_parameters(), dict(model.named_parameters()).values(), strict=False):
        if key.startswith(EXACT[name]):
            torch.testing.assert_close(other.grad, parameter.grad, msg=lambda m, key=key: f"{key}: {m}")


KP = [("afn", rule, {"embedding_gradient": kind}) for rule in DIRECT_RULES[2:] for kind in ("kp", "mirror")]


@pytest.mark.parametrize(("name", "rule", "options"), [*((n, r, {}) for n in DEEP for r in DIRECT_RULES), *KP])
def test_every_rule_moves_what_it_should(name, rule, options):
    """All of the network learns, the embedding too; of shallow what has an exact gradient."""
    model = small(name, rule, **options)  # in eval mode: in a batch, one norm makes the shift of another idle
    before = {key: p.detach().clone() for key, p in model.named_parameters()}
    optimizer = torch.optim.SGD(model.parameters(), 1e-4)
    for _ in range(2):
        optimizer.zero_grad()
        loss(model).backward()
        optimizer.step()
    moved = {key for key, p in model.named_parameters() if not torch.equal(p, before[key])}
    own = {key for key in before if not key.startswith("rule.")}
    expected = own if rule != "shallow" else {key for key in own if key.startswith(EXACT[name])}
    assert moved - {key for key in before if key.startswith("rule.")} == expected
    assert all(torch.isfinite(p).all() for p in model.parameters())


@pytest.mark.parametrize("name", MODELS)
def test_sparse_gradients_are_the_dense_ones(name):
    rule = "bp" if name == "fm" else "dfa"
    models = [small(name, rule, sparse=sparse) for sparse in (False, True)]
    for model in models:
        loss(model).backward()
    dense, sparse = (dict(model.named_parameters()) for model in models)
    for key, parameter in dense.items():
        gradient = sparse[key].grad
        assert gradient.is_sparse == (key in ("embedding.weight", "first_order.weights.weight"))
        torch.testing.assert_close(gradient.to_dense() if gradient.is_sparse else gradient, parameter.grad)


def test_afns_embedding_starts_around_its_mean():
    """The same draws about another place, and nothing else of the model differs."""
    states = []
    for mean in (0.0, 1.0):
        torch.manual_seed(0)
        shape = Shape(FIELDS, VALUES, width=4, mlp=(8, 6))
        states.append(MODELS["afn"](shape, "dfa", neurons=6, embedding_mean=mean).state_dict())
    for key, value in states[0].items():
        torch.testing.assert_close(states[1][key], value + (key == "embedding.weight"))


def test_fm_has_one_rule():
    with pytest.raises(ValueError, match="fm has no hidden layer for 'dfa' to teach"):
        MODELS["fm"](Shape(FIELDS, VALUES), "dfa")
