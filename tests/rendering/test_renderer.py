"""The renderer against scenes whose pixels have a closed form."""

import math
from unittest.mock import Mock

import pytest
import torch
from torch import nn

from nerf_dfa.fields import Field, MLPField
from nerf_dfa.rendering import Cameras, Chunks, RadianceModel, RenderSettings, image_rays, render_image
from nerf_dfa.rendering.occupancy import OccupancyGrid
from nerf_dfa.rendering.renderer import render_rays

NEAR, FAR, BACKGROUND = 2.0, 6.0, 0.8
RED, BLUE = (0.8, 0.3, 0.2), (0.1, 0.4, 0.7)
# One camera at (0, 0, 4), which looks at the origin.
POSE = torch.cat([torch.eye(3), torch.tensor([[0.0], [0.0], [4.0]])], dim=1)
CAMERAS = Cameras(POSE[None], torch.tensor([[20.0, 20.0, 4.5, 3.5]]), width=9, height=7)


class Scene(Field):
    """A field of one colour whose density is given in closed form; the raw outputs invert the activations."""

    def __init__(self, sigma, colour=RED, activation="softplus", box=None):
        super().__init__(activation, box)
        self.sigma = sigma
        self.colour = nn.Parameter(torch.logit(torch.tensor(colour)))

    def raw(self, positions, directions):
        sigma = self.sigma(positions)
        if self.density_activation == "softplus":
            sigma = torch.log(torch.expm1(sigma)).clamp(min=-100.0) + 2.0
        elif self.density_activation == "exp":
            sigma = torch.log(sigma).clamp(min=-100.0)
        return torch.cat([self.colour.expand(*sigma.shape, 3), sigma[..., None]], dim=-1)


def ball(density, radius):
    return lambda x: density * (x.norm(dim=-1) < radius).float()


def cloud(density, spread):
    return lambda x: density * torch.exp(-0.5 * x.square().sum(-1) / spread**2)


def fog(density):
    return lambda x: torch.full(x.shape[:-1], density)


def settings(samples=16, importance=0, perturb=False, netchunk=1 << 20, **options):
    return RenderSettings(samples, importance, background=BACKGROUND, perturb=perturb, netchunk=netchunk, **options)


def image(coarse, fine=None, samples=16, importance=0, cameras=CAMERAS, chunks=None, **options):
    how = settings(samples, importance, **options)
    return render_image(RadianceModel(coarse, fine), cameras, 0, NEAR, FAR, how, chunks=chunks)


def flat_rays(cameras=CAMERAS):
    return image_rays(cameras, 0, NEAR, FAR).map(lambda x: x.flatten(0, 1))


def geometry():
    """Each pixel's distance b from the origin to the ray, and the length of its direction of depth 1."""
    rows, columns = torch.meshgrid(torch.arange(7.0), torch.arange(9.0), indexing="ij")
    tangent = torch.hypot(columns + 0.5 - 4.5, rows + 0.5 - 3.5) / 20.0
    length = (1 + tangent**2).sqrt()
    return 4.0 * tangent / length, length


def over_background(opacity):
    return opacity[..., None] * torch.tensor(RED) + (1 - opacity[..., None]) * BACKGROUND


@pytest.mark.parametrize("activation", ["softplus", "relu", "exp"])
@pytest.mark.parametrize(("importance", "tolerance"), [(0, 1e-5), (256, 5e-3)])
def test_a_clouds_image_is_its_line_integral(activation, importance, tolerance):
    """The optical depth is the integral of Gauss's bell; over equal steps sums converge to it exponentially."""
    scene = Scene(cloud(2.0, 0.4), activation=activation)
    got = image(scene, scene if importance else None, 64, importance)
    b, _ = geometry()
    opacity = 1 - torch.exp(-2.0 * 0.4 * math.sqrt(2 * math.pi) * torch.exp(-0.5 * (b / 0.4) ** 2))
    torch.testing.assert_close(got.opacity, opacity, rtol=0, atol=tolerance)
    torch.testing.assert_close(got.rgb, over_background(opacity), rtol=0, atol=tolerance)


def test_a_balls_image_follows_from_the_chords_of_its_rays():
    density, radius, samples = 1.5, 0.7, 4001
    got = image(Scene(ball(density, radius)), samples=samples)
    b, length = geometry()
    half_chord = (radius**2 - b**2).clamp(min=0).sqrt()
    opacity = 1 - torch.exp(-density * 2 * half_chord)
    error = density * (FAR - NEAR) / (samples - 1) * length.max().item()  # a step's optical depth
    torch.testing.assert_close(got.opacity, opacity, rtol=0, atol=error)
    torch.testing.assert_close(got.rgb, over_background(opacity), rtol=0, atol=error)

    # In t, light ends between t0 and t1 with density s exp(-s (t - t0)), and the rest of it at the far plane.
    s, t0, t1 = density * length, 4 / length**2 - half_chord / length, 4 / length**2 + half_chord / length
    depth = t0 + 1 / s + (FAR - t1 - 1 / s) * torch.exp(-s * (t1 - t0))
    torch.testing.assert_close(got.depth, depth, rtol=0, atol=(FAR - NEAR) * error)


class Striped(Scene):
    """A small dense cloud in stripes of colour across the view, finer than 128 samples of a ray lie apart."""

    def raw(self, positions, directions):
        stripes = 2 * torch.sin(2 * math.pi * positions[..., 2:] / 0.05).expand(positions.shape)
        return torch.cat([stripes, super().raw(positions, directions)[..., 3:]], dim=-1)


def test_fine_samples_show_detail_that_as_many_coarse_ones_miss():
    scene, rays, t = Striped(cloud(50.0, 0.1)), flat_rays(), torch.linspace(NEAR, FAR, 8001, dtype=torch.float64)
    sigma, rgb = scene((rays.origins[:, None] + t[:, None] * rays.directions[:, None]), rays.viewdirs[:, None])
    passes = torch.exp(-torch.cumulative_trapezoid(sigma, t * rays.directions.norm(dim=-1, keepdim=True)))
    absorbed = -passes.diff(dim=-1, prepend=torch.ones(63, 1))[..., None]
    exact = (absorbed * (rgb[:, 1:] + rgb[:, :-1]) / 2).sum(1) + passes[:, -1:] * BACKGROUND

    def error(fine, *samples):
        model, how = RadianceModel(scene, fine), settings(*samples, perturb=True)
        got = render_rays(model, rays, how, torch.Generator().manual_seed(0)).best.rgb
        return (got - exact).square().mean().sqrt().item()

    # 32 coarse and 32 + 64 fine evaluations of a ray, against 128.
    assert error(scene, 32, 64) < 0.5 * error(None, 128)


@pytest.mark.parametrize(("netchunk", "rays"), [(1, 4096), (40, 5), (40, 12), (1 << 20, 1)])
def test_chunks_of_any_size_give_the_same_image(netchunk, rays):
    networks, cameras = [MLPField(3, 16, 3, 2) for _ in range(2)], CAMERAS.resized(4, 3)
    whole = image(*networks, 8, 8, cameras)
    parts = image(*networks, 8, 8, cameras, Chunks(rays), netchunk=netchunk)
    for a, b in zip(whole, parts, strict=True):
        assert a.shape[:2] == (3, 4)
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5)


class Limited(Scene):
    """A scene on a device that holds forty rays, and ten once it has rendered some."""

    limit = 40

    def raw(self, positions, directions):
        if positions.shape[0] > self.limit:
            raise torch.OutOfMemoryError("CUDA out of memory")
        self.limit = 10
        return super().raw(positions, directions)


def test_running_out_of_memory_halves_the_chunk_and_leaves_the_image_as_it_is():
    halvings = []
    chunks = Chunks(64, on_halving=halvings.append)
    expected = image(Scene(cloud(2.0, 0.4)))
    for _ in range(2):  # the second image begins with the size that the first one found
        for a, b in zip(image(Limited(cloud(2.0, 0.4)), chunks=chunks), expected, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-6)
        assert (halvings, chunks.size) == ([32, 16, 8], 8)


@pytest.mark.parametrize(("size", "error"), [(1, torch.OutOfMemoryError("no memory")), (8, RuntimeError("another"))])
def test_errors_that_smaller_chunks_do_not_cure_are_raised(size, error):
    with pytest.raises(type(error), match=str(error)):
        Chunks(size).map(Mock(side_effect=[error] * 9), flat_rays())


def dual(mode, coarse, fine):
    return render_rays(RadianceModel(coarse, fine), flat_rays(), settings(16, 24, dual=mode)).best


def test_dual_averages_pixels_or_raw_outputs_at_the_fine_samples():
    coarse, fine, between = Scene(cloud(2.0, 0.4), RED), Scene(cloud(0.7, 0.6), BLUE), Field()
    between.raw = lambda x, d: (coarse.raw(x, d) + fine.raw(x, d)) / 2
    # The samples are the coarse field's proposal in each of them.
    a, b, mean = (dual("none", coarse, field) for field in (coarse, fine, between))
    for got, x, y in zip(dual("pixels", coarse, fine), a, b, strict=True):
        torch.testing.assert_close(got, (x + y) / 2, rtol=0, atol=1e-6)
    for got, x in zip(dual("raw", coarse, fine), mean, strict=True):
        torch.testing.assert_close(got, x, rtol=0, atol=1e-6)


@pytest.mark.parametrize("mode", ["pixels", "raw"])
def test_dual_of_two_fogs_is_what_one_computes_by_hand(mode):
    """Homogeneous fog of density s has over a length L the opacity 1 - exp(-s L)."""
    density, colour = torch.tensor([0.5, 0.1]), torch.tensor([RED, BLUE])
    if mode == "raw":
        raw = torch.log(torch.expm1(density)).mean()
        density, colour = torch.log1p(torch.exp(raw))[None], torch.sigmoid(torch.logit(colour).mean(0))[None]
    passes = torch.exp(-density * flat_rays().directions.norm(dim=-1, keepdim=True) * (FAR - NEAR))[..., None]
    expected = (colour * (1 - passes) + BACKGROUND * passes).mean(1)
    got = dual(mode, Scene(fog(0.5), RED), Scene(fog(0.1), BLUE))
    torch.testing.assert_close(got.rgb, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("perturb", "noise"), [(True, 0.0), (False, 1.0), (True, 1.0)])
def test_samples_and_noise_are_random_only_with_a_generator(perturb, noise):
    scene = Scene(ball(3.0, 0.7))

    def render(seed, **options):
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        return render_rays(RadianceModel(scene, scene), flat_rays(), settings(16, 8, **options), generator).best.rgb

    plain, options = render(None), {"perturb": perturb, "noise": noise}
    assert torch.equal(plain, render(None, **options))
    assert torch.equal(plain, render(0))
    assert not torch.equal(plain, render(0, **options))
    assert torch.equal(render(0, **options), render(0, **options))
    assert not torch.equal(render(0, **options), render(1, **options))


def test_noise_on_the_raw_density_has_the_standard_deviation_asked_for():
    """The density is read off the weights; with ReLU, far above zero, it is the raw one and the noise."""
    model, rays = RadianceModel(Scene(fog(2.0), activation="relu"), None), flat_rays()
    weights = render_rays(model, rays, settings(50, noise=0.3), torch.Generator().manual_seed(0)).best.weights
    passed = 1 - weights.double().cumsum(-1)[:, :20]
    delta = rays.directions.norm(dim=-1, keepdim=True) * (FAR - NEAR) / 49
    noise = -passed.log().diff(dim=-1) / delta - 2.0
    assert noise.mean().item() == pytest.approx(0.0, abs=5 * 0.3 / math.sqrt(noise.numel()))
    assert noise.std().item() == pytest.approx(0.3, rel=5 / math.sqrt(2 * noise.numel()))


@pytest.mark.parametrize("rule", ["bp", "dfa"])
def test_gradients_do_not_depend_on_how_the_points_are_chunked(rule):
    model = RadianceModel(*[MLPField(3, 16, 3, 2, learning_rule=rule) for _ in range(2)])

    def gradients(netchunk):
        model.zero_grad()
        how = settings(8, 8, noise=0.5, netchunk=netchunk)
        coarse, fine = render_rays(model, flat_rays(CAMERAS.resized(4, 3)), how, torch.Generator().manual_seed(3))
        (coarse.rgb.square().mean() + fine.rgb.square().mean()).backward()
        return {name: p.grad.clone() for name, p in model.named_parameters()}

    chunked = gradients(40)
    for name, whole in gradients(1 << 20).items():
        assert whole.any(), name
        torch.testing.assert_close(chunked[name], whole, rtol=1e-3, atol=1e-5 * whole.abs().max().item())


def test_a_field_in_a_box_is_empty_beside_and_behind_it():
    """A fog that fills the whole space is seen between the faces of its box alone."""
    box = torch.tensor([[-0.5, -0.4, -0.6], [0.5, 0.4, 0.6]])
    model, rays = RadianceModel(Scene(fog(1.5), activation="relu", box=box), None), flat_rays()
    got = render_rays(model, rays, settings(8)).best
    t = torch.linspace(NEAR, FAR, 8001)
    points = rays.origins[:, None] + t[:, None] * rays.directions[:, None]
    inside = ((points > box[0]) & (points < box[1])).all(-1).float().mean(-1)
    length = inside * (FAR - NEAR) * rays.directions.norm(dim=-1)
    torch.testing.assert_close(got.opacity, 1 - torch.exp(-1.5 * length), rtol=0, atol=2e-3)
    missed = inside == 0
    assert 10 < missed.sum() < 53
    torch.testing.assert_close(got.rgb[missed], torch.full_like(got.rgb[missed], BACKGROUND))
    torch.testing.assert_close(got.depth[missed], rays.far[missed])
    opaque = render_rays(model, rays, settings(8, opaque_end=True)).best
    torch.testing.assert_close(opaque.opacity, (inside > 0).float())


@pytest.mark.parametrize("importance", [0, 8])
@pytest.mark.parametrize("skipping", [False, True])
def test_what_errs_goes_back(importance, skipping):
    """All of it: as ever. Nearly all: nearly the same. In evaluation nothing is left out."""
    torch.manual_seed(0)
    fields = [MLPField(depth=2, width=16) for _ in range(1 + (importance > 0))]
    box = torch.tensor([[-1.0, -1.0, -1.0], [1.0, 1.0, 1.0]])
    model = RadianceModel(fields[0], fields[1] if importance else None, OccupancyGrid(box, 8) if skipping else None)
    gradients = {}
    for kept in (1.0, 1 - 1e-9, 0.999):
        model.zero_grad()
        for field in fields:
            field.rooms.errors.share = 0.1  # else all goes back
        rendered = render_rays(model, flat_rays(), settings(importance=importance, error_kept=kept, netchunk=400))
        ((rendered.best.rgb - 0.5).square().sum() + (rendered.coarse.rgb - 0.3).square().sum()).backward()
        gradients[kept] = torch.cat([p.grad.flatten() for p in model.parameters()])
    whole = gradients[1.0]
    torch.testing.assert_close(gradients[1 - 1e-9], whole, rtol=1e-3, atol=1e-4 * whole.abs().max().item())
    assert 0 < (gradients[0.999] - whole).norm() < 0.1 * whole.norm()
    rgb = render_rays(model.eval(), flat_rays(), settings(importance=importance, error_kept=0.5)).best.rgb
    assert torch.autograd.grad(rgb.sum(), fields[-1].rgb_linear.weight)[0].any()
