"""The Transformer: causality, and what each learning rule puts into the gradients, against explicit computations."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from nerf_dfa.language.attention import ATTENTIONS
from nerf_dfa.language.model import RULES, Shape, Transformer, sinusoids

SMALL = Shape(vocabulary=11, chunk=6, layers=3, heads=2, width=8, feed_forward=12, dropout=0.0)
TOKENS = torch.tensor([[1, 2, 3, 4, 5, 6], [7, 8, 9, 10, 0, 1]])
TARGETS = torch.tensor([[2, 3, 4, 5, 6, 7], [8, 9, 10, 0, 1, 2]])


def make(rule="bp", **changes):
    torch.manual_seed(1)
    return Transformer(replace(SMALL, **changes), rule).double()


def loss(model):
    return F.cross_entropy(model(TOKENS).flatten(0, 1), TARGETS.flatten())


def gradients(model):
    model.zero_grad(set_to_none=True)
    loss(model).backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None and "rule." not in name}


def start(model):
    return model.embedding(TOKENS) * model.shape.width**0.5 + model.positions


def attended(block, x):
    """A block up to its first feedback point under micro."""
    if block.pre:
        return x + block.attention(block.norm1(x))
    return block.norm1(x + block.attention(x))


def end(block, x, h):
    """A block from its ReLUs on."""
    return x + block.narrow(h) if block.pre else block.norm2(x + block.narrow(h))


def relus(block, x):
    return F.relu(block.wide(block.norm2(x) if block.pre else x))


def pieces(model):
    """The network in pieces, each of a detached input: the activation of every feedback point, and the logits."""
    points, x = [], start(model)
    for block in model.blocks:
        if model.shape.placement == "macro":
            x = attended(block, x)
            points.append(end(block, x, relus(block, x)))
        else:
            points.append(attended(block, x))
            x = points[-1].detach()
            points.append(relus(block, x))
            points.append(end(block, x, points[-1].detach()))
        x = points[-1].detach()
    return points, x


@pytest.mark.parametrize("norm", ["post", "pre"])
@pytest.mark.parametrize("kind", ATTENTIONS)
def test_later_tokens_change_no_earlier_logit(kind, norm):
    model = make(attention=kind, norm=norm)
    before = model(TOKENS)
    for place in range(1, 6):
        changed = TOKENS.clone()
        changed[:, place] = (changed[:, place] + 3) % 11
        after = model(changed)
        assert torch.equal(after[:, :place], before[:, :place])
        assert not torch.allclose(after[:, place], before[:, place])
    torch.testing.assert_close(model(TOKENS[:, :4]), before[:, :4])


@pytest.mark.parametrize("norm", ["post", "pre"])
def test_bp_is_plain_autograd(norm):
    model = make(norm=norm, placement="micro")
    x = start(model)
    for block in model.blocks:
        x = attended(block, x)
        x = end(block, x, relus(block, x))
    logits = model.decoder(model.norm(x))
    torch.testing.assert_close(model(TOKENS), logits)
    names, parameters = zip(*model.named_parameters(), strict=True)
    expected = torch.autograd.grad(F.cross_entropy(logits.flatten(0, 1), TARGETS.flatten()), parameters)
    found = gradients(model)
    assert set(found) == set(names)
    for name, gradient in zip(names, expected, strict=True):
        torch.testing.assert_close(found[name], gradient, msg=name)


@pytest.mark.parametrize("rule", ["dfa", "dkp"])
@pytest.mark.parametrize("error_at", ["logits", "decoder_input"])
@pytest.mark.parametrize("placement", ["macro", "micro"])
@pytest.mark.parametrize("norm", ["post", "pre"])
def test_direct_feedback_is_bp_of_every_piece(rule, error_at, placement, norm):
    model = make(rule, placement=placement, norm=norm, error_at=error_at)
    points, x = pieces(model)
    if error_at == "decoder_input":  # the last piece has its exact gradient
        x = points.pop()
    at = model.norm(x)
    logits = model.decoder(at)
    torch.testing.assert_close(model(TOKENS), logits)
    exact = F.cross_entropy(logits.flatten(0, 1), TARGETS.flatten())
    error = torch.autograd.grad(exact, logits if error_at == "logits" else at, retain_graph=True)[0]
    total = exact
    for number, h in enumerate(points):
        if rule == "dkp":
            matrix = model.rule.feedback.matrices[number]
        else:
            matrix = model.rule.feedback.projection.matrix[:, : h.shape[-1]] * h.shape[-1] ** -0.5
        total = total + (h * (error @ matrix).detach()).sum()
    names, parameters = zip(*((n, p) for n, p in model.named_parameters() if "rule." not in n), strict=True)
    found = gradients(model)
    assert set(found) == set(names)  # the embedding too
    for name, gradient in zip(names, torch.autograd.grad(total, parameters), strict=True):
        torch.testing.assert_close(found[name], gradient, rtol=1e-9, atol=1e-12, msg=name)
    if rule == "dkp":
        for matrix, h in zip(model.rule.feedback.matrices, points, strict=True):
            torch.testing.assert_close(matrix.grad, torch.einsum("blc,blw->cw", error, h.detach()))


@pytest.mark.parametrize("norm", ["post", "pre"])
def test_shallow_trains_what_is_behind_the_blocks(norm):
    names = {"decoder.weight", "decoder.bias"} | ({"norm.weight", "norm.bias"} if norm == "pre" else set())
    assert set(gradients(make("shallow", norm=norm))) == names


@pytest.mark.parametrize("kind", ATTENTIONS)
@pytest.mark.parametrize("placement", ["macro", "micro"])
@pytest.mark.parametrize("rule", RULES)
def test_every_rule_trains_every_attention(rule, placement, kind):
    model = make(rule, placement=placement, attention=kind, dropout=0.1)
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    before, first = {n: p.detach().clone() for n, p in model.named_parameters()}, loss(model.eval()).item()
    model.train()
    for _ in range(20):
        optimizer.zero_grad()
        loss(model).backward()
        optimizer.step()
    assert loss(model.eval()).item() < first
    changed = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    assert "decoder.weight" in changed
    if rule != "shallow":
        learned = {"dense": {"blocks.0.attention.keys"}, "random": {"blocks.2.attention.logits"}}.get(kind, set())
        assert learned | {"embedding.weight", "blocks.0.attention.project.weight"} <= changed


def test_fdfa_estimates_the_mean_jacobian_through_attention():
    """Of a position's logits by its own activation behind the first block, weighted by the errors."""
    model, copies = make("fdfa", layers=2), 200
    targets = TARGETS.repeat(copies, 1).flatten()
    for _ in range(20):
        F.cross_entropy(model(TOKENS.repeat(copies, 1)).flatten(0, 1), targets).backward()

    def above(x):
        x = attended(model.blocks[1], x)
        return model.decoder(end(model.blocks[1], x, relus(model.blocks[1], x)))

    x = pieces(model)[0][0].detach()
    weights = (above(x).softmax(-1) - F.one_hot(TARGETS, 11)).abs()
    expected = torch.zeros(11, 8, dtype=torch.float64)
    for text in range(2):
        jacobian = torch.autograd.functional.jacobian(above, x[text : text + 1]).squeeze((0, 3))  # (6, 11, 6, 8)
        for i in range(6):
            expected += weights[text, i, :, None] / weights.sum((0, 1))[:, None] * jacobian[i, :, i]
    difference = (model.rule.feedback.matrix_0 - expected).norm() / expected.norm()
    assert difference < 0.1


def test_sinusoids():
    table = sinusoids(50, 16)
    for position, component in ((0, 0), (7, 0), (7, 1), (31, 6), (49, 15)):
        angle = torch.tensor(position / 10000 ** (component // 2 * 2 / 16), dtype=torch.float64)
        expected = angle.cos() if component % 2 else angle.sin()
        assert table[position, component].item() == pytest.approx(expected.item(), abs=1e-6)


def test_unknown_rule():
    with pytest.raises(ValueError, match="unknown learning rule 'fa'; there are bp"):
        make("fa")
