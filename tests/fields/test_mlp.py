"""NeRF's network against nerf-pytorch's names and shapes, and against its forward pass written out."""

import pytest
import torch

from nerf_dfa.fields import MLPField

SHAPES = {
    "pts_linears.0": (256, 63),
    **{f"pts_linears.{i}": (256, 256) for i in (1, 2, 3, 4, 6, 7)},
    "pts_linears.5": (256, 319),  # the encoded position again
    "feature_linear": (256, 256),
    "alpha_linear": (1, 256),
    "views_linears.0": (128, 283),  # 256 + 27
    "rgb_linear": (3, 128),
}


def shapes(field):
    return {name: tuple(p.shape) for name, p in field.named_parameters()}


def test_parameters_have_the_names_and_shapes_of_nerf_pytorch():
    expected = {f"{name}.weight": shape for name, shape in SHAPES.items()}
    expected |= {f"{name}.bias": shape[:1] for name, shape in SHAPES.items()}
    assert shapes(MLPField()) == expected


@pytest.mark.parametrize(
    ("options", "parameters"),
    [
        # 63, 256 x 4, 319, 256 x 2 -> 256; feature; density; direction; colour.
        ({}, 64 * 256 + 6 * 257 * 256 + 320 * 256 + 257 * 256 + 257 + 284 * 128 + 129 * 3),
        ({}, 595_844),
        ({"depth": 4, "width": 128}, 84_548),  # a network published with the paper on direct feedback alignment
        ({"use_viewdirs": False}, 64 * 256 + 6 * 257 * 256 + 320 * 256 + 257 * 4),
    ],
)
def test_number_of_parameters(options, parameters):
    assert sum(p.numel() for p in MLPField(**options).parameters()) == parameters


def encode(x, frequencies):
    return torch.cat([x] + [wave(2.0**k * x) for k in range(frequencies) for wave in (torch.sin, torch.cos)], -1)


def nerf_pytorch(weights, positions, directions, depth, frequencies, linear_first=False, feature_relu=False, skip=True):
    """The forward pass of nerf-pytorch, with everything concatenated, and directions for every point.

    linear_first, feature_relu, skip: how the networks of its descendants differ.
    """

    def linear(name, x):
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    points, views = encode(positions, frequencies[0]), encode(directions, frequencies[1])
    h = points
    for i in range(depth):
        h = linear(f"pts_linears.{i}", h)
        h = h if linear_first and i == 0 else h.relu()
        if skip and i == 4 and depth > 5:
            h = torch.cat([points, h], -1)
    if "output_linear.weight" in weights:
        return linear("output_linear", h)
    alpha = linear("alpha_linear", h)
    feature = linear("feature_linear", h)
    h = torch.cat([feature.relu() if feature_relu else feature, views], -1)
    return torch.cat([linear("rgb_linear", linear("views_linears.0", h).relu()), alpha], -1)


def make(depth, frequencies=(10, 4), use_viewdirs=True, rule="bp", width=24, **variant):
    """A network in float64 with large random weights and biases; its raw outputs are rounded to float32."""
    field = MLPField(depth, width, *frequencies, use_viewdirs=use_viewdirs, learning_rule=rule, **variant).double()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in field.parameters():
            p.copy_(torch.randn(p.shape, generator=generator) * (2 / p.shape[-1]) ** 0.5)
    return field


def points(rays=4, samples=5):
    generator = torch.Generator().manual_seed(1)
    positions = torch.randn(rays, samples, 3, generator=generator, dtype=torch.float64)
    directions = torch.randn(rays, 1, 3, generator=generator, dtype=torch.float64)
    return positions, directions / directions.norm(dim=-1, keepdim=True)


CASES = [
    *[{"depth": depth} for depth in (1, 2, 4, 5, 6, 8)],
    {"depth": 8, "use_viewdirs": False},
    {"depth": 2, "use_viewdirs": False},
    {"depth": 6, "frequencies": (0, 0)},
    {"depth": 6, "frequencies": (5, 2), "width": 7},
    {"depth": 4, "linear_first": True},
    {"depth": 4, "feature_relu": True},
    {"depth": 8, "skip": False},
    {"depth": 8, "linear_first": True, "feature_relu": True, "skip": False},
    {"depth": 6, "linear_first": True, "use_viewdirs": False},
]
VARIANT = ("linear_first", "feature_relu", "skip")


@pytest.mark.parametrize("case", CASES)
def test_raw_outputs_and_gradients_are_those_of_nerf_pytorch(case):
    field = make(**case)
    positions, directions = points()
    positions.requires_grad_()
    weights = dict(field.named_parameters())
    got = field.raw(positions, directions)
    assert got.dtype == torch.float32
    variant = {name: case[name] for name in VARIANT if name in case}
    expected = nerf_pytorch(
        weights, positions, directions.expand(4, 5, 3), case["depth"], case.get("frequencies", (10, 4)), **variant
    ).float()
    torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-6)

    inputs = [positions, *weights.values()]
    factor = torch.randn(4, 5, 4)
    for a, b in zip(*(torch.autograd.grad((y * factor).sum(), inputs) for y in (got, expected)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9 * b.abs().max().item())


@pytest.mark.parametrize("rule", ["bp", "dfa"])
def test_one_direction_of_a_ray_is_that_direction_at_each_of_its_samples(rule):
    field = make(8, rule=rule)
    positions, directions = points()
    parameters = [p for name, p in field.named_parameters() if not name.startswith("rule")]
    results = []
    for d in (directions, directions.expand(4, 5, 3)):
        raw = field.raw(positions, d)
        results.append([raw, *torch.autograd.grad(raw.square().sum(), parameters)])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6 * b.abs().max().item())


def test_without_view_directions_the_output_does_not_depend_on_them():
    field = make(3, use_viewdirs=False)
    positions, directions = points()
    assert torch.equal(field.raw(positions, directions), field.raw(positions, -directions))


def test_density_does_not_depend_on_the_direction_and_colour_does():
    field = make(3)
    positions, directions = points()
    one, other = field.raw(positions, directions), field.raw(positions, -directions)
    assert torch.equal(one[..., 3], other[..., 3])
    assert not torch.isclose(one[..., :3], other[..., :3]).any()


@pytest.mark.parametrize("rule", ["shallow", "dfa"])
def test_the_layer_without_relu_is_a_feedback_point_as_the_others(rule):
    """The last layers' gradients are exact, the first one's is the feedback's outer product with its input."""
    field = make(3, rule=rule, linear_first=True, feature_relu=True)
    positions, directions = points()
    field.raw(positions, directions).sum().backward()
    first = field.pts_linears[0].weight.grad
    if rule == "shallow":
        assert first is None or not first.any()
        return
    # With an error of ones everywhere every row of the projected error is the same vector s: dW = s sum(x)^T.
    x = encode(positions, 10).flatten(0, 1).sum(0)
    rank_one = first @ x / (x @ x)
    torch.testing.assert_close(first, rank_one[:, None] * x)
    assert first.abs().max() > 0
