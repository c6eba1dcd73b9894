"""A NeRF as a textbook writes it, to compare with: nothing in it is there for speed.

    python -m nerf_dfa.benchmarks.plain_nerf [--rays 256] [--depth 8] [--width 256] [--coarse 64] [--fine 128]
        [--rounds 5] [--threads N] [--device cpu|cuda]

Two networks of 8 layers of 256 with the position again after the fifth, 64 coarse and 128 further samples, white
background, ReLU density, Adam, backpropagation by autograd. Prints one JSON object: its step alone, forward and whole,
on rays through a ball. benchmarks.train_step measures it beside this program's own steps.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nerf_dfa.benchmarks.measure import interleaved, matrix_products, print_result
from nerf_dfa.machine import machine
from nerf_dfa.training.devices import choose_device, keep_freed_memory
from nerf_dfa.training.program import positive

POSITION_FREQUENCIES, DIRECTION_FREQUENCIES = 10, 4


def encode(x: Float[Tensor, "*batch 3"], frequencies: int) -> Float[Tensor, "*batch encoded"]:
    """x with the sines and cosines of x, 2x, 4x, ..."""
    parts = [x]
    for i in range(frequencies):
        parts.append(torch.sin(2**i * x))
        parts.append(torch.cos(2**i * x))
    return torch.cat(parts, dim=-1)


class PlainMLP(nn.Module):
    """Position and direction, one of each for every sample, to density and colour."""

    def __init__(self, depth: int = 8, width: int = 256) -> None:
        super().__init__()
        encoded = 3 + 6 * POSITION_FREQUENCIES
        inputs = [encoded] + [width + encoded if i == 5 else width for i in range(1, depth)]
        self.layers = nn.ModuleList([nn.Linear(n, width) for n in inputs])
        self.density = nn.Linear(width, 1)
        self.feature = nn.Linear(width, width)
        self.view = nn.Linear(width + 3 + 6 * DIRECTION_FREQUENCIES, width // 2)
        self.colour = nn.Linear(width // 2, 3)

    def forward(
        self, positions: Float[Tensor, "*batch 3"], directions: Float[Tensor, "*batch 3"]
    ) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch 3"]]:
        points = encode(positions, POSITION_FREQUENCIES)
        x = points
        for i, layer in enumerate(self.layers):
            if i == 5:
                x = torch.cat([points, x], dim=-1)
            x = torch.relu(layer(x))
        sigma = torch.relu(self.density(x))[..., 0]
        x = torch.cat([self.feature(x), encode(directions, DIRECTION_FREQUENCIES)], dim=-1)
        return sigma, torch.sigmoid(self.colour(torch.relu(self.view(x))))


def composite(
    sigma: Float[Tensor, "rays samples"],
    rgb: Float[Tensor, "rays samples 3"],
    t: Float[Tensor, "rays samples"],
    directions: Float[Tensor, "rays 3"],
) -> tuple[Float[Tensor, "rays 3"], Float[Tensor, "rays samples"]]:
    """Colours over white, and the weights of the samples; the last one stands for all that lies behind it."""
    endless = 1e10 * torch.ones_like(t[:, :1])
    delta = torch.cat([t[:, 1:] - t[:, :-1], endless], dim=-1) * directions.norm(dim=-1, keepdim=True)
    alpha = 1 - torch.exp(-sigma * delta)
    passed = torch.cat([torch.ones_like(alpha[:, :1]), 1 - alpha + 1e-10], dim=-1)
    weights = alpha * torch.cumprod(passed, dim=-1)[:, :-1]
    colours = (weights[..., None] * rgb).sum(dim=1)
    return colours + (1 - weights.sum(dim=-1, keepdim=True)), weights


def stratified(near: float, far: float, rays: int, count: int, device: torch.device) -> Float[Tensor, "rays count"]:
    """A random depth in each of `count` equal parts of the way from near to far."""
    edges = torch.linspace(near, far, count + 1, device=device)
    return edges[:-1] + (edges[1:] - edges[:-1]) * torch.rand(rays, count, device=device)


def importance(
    t: Float[Tensor, "rays samples"], weights: Float[Tensor, "rays samples"], count: int
) -> Float[Tensor, "rays count"]:
    """Depths drawn by the inverse of the weights' distribution function, between the middles of the samples."""
    middle = (t[:, 1:] + t[:, :-1]) / 2
    pdf = weights[:, 1:-1] + 1e-5
    cdf = torch.cumsum(pdf / pdf.sum(dim=-1, keepdim=True), dim=-1)
    cdf = torch.cat([torch.zeros_like(cdf[:, :1]), cdf], dim=-1)
    u = torch.rand(t.shape[0], count, device=t.device)
    above = torch.searchsorted(cdf, u, right=True).clamp(1, cdf.shape[1] - 1)
    low, high = torch.gather(cdf, 1, above - 1), torch.gather(cdf, 1, above)
    start, end = torch.gather(middle, 1, above - 1), torch.gather(middle, 1, above)
    return start + (u - low) / (high - low) * (end - start)


class PlainNeRF(nn.Module):
    """Rays to colours by the coarse and by the fine network."""

    def __init__(self, depth: int = 8, width: int = 256, coarse_samples: int = 64, fine_samples: int = 128) -> None:
        super().__init__()
        self.coarse, self.fine = PlainMLP(depth, width), PlainMLP(depth, width)
        self.coarse_samples, self.fine_samples = coarse_samples, fine_samples

    def forward(
        self, origins: Float[Tensor, "rays 3"], directions: Float[Tensor, "rays 3"], near: float, far: float
    ) -> tuple[Float[Tensor, "rays 3"], Float[Tensor, "rays 3"]]:
        t = stratified(near, far, len(origins), self.coarse_samples, origins.device)
        coarse, weights = self.look(self.coarse, origins, directions, t)
        t, _ = torch.sort(torch.cat([t, importance(t, weights.detach(), self.fine_samples)], dim=-1), dim=-1)
        fine, _ = self.look(self.fine, origins, directions, t)
        return coarse, fine

    def look(
        self, network: PlainMLP, origins: Tensor, directions: Tensor, t: Float[Tensor, "rays samples"]
    ) -> tuple[Float[Tensor, "rays 3"], Float[Tensor, "rays samples"]]:
        positions = origins[:, None, :] + t[..., None] * directions[:, None, :]
        unit = directions / directions.norm(dim=-1, keepdim=True)
        sigma, rgb = network(positions, unit[:, None, :].expand(positions.shape))
        return composite(sigma, rgb, t, directions)


def make_step(
    model: PlainNeRF,
    origins: Float[Tensor, "n 3"],
    directions: Float[Tensor, "n 3"],
    colours: Float[Tensor, "n 3"],
    near: float,
    far: float,
    rays: int,
) -> Callable[[], float]:
    """A function that makes a training step with random ones of the given rays, and returns the loss."""
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-4)

    def step() -> float:
        chosen = torch.randint(len(origins), (rays,), device=origins.device)
        coarse, fine = model(origins[chosen], directions[chosen], near, far)
        target = colours[chosen]
        loss = ((coarse - target) ** 2).mean() + ((fine - target) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def make_new_step(sizes: tuple[int, int, int, int], *rays: Any) -> Callable[[], float]:
    """The same of a new model; sizes: its depth, width, coarse and fine samples."""
    return make_step(PlainNeRF(*sizes).to(rays[0].device), *rays)


def run(
    rays: int, depth: int, width: int, coarse: int, fine: int, rounds: int, device: torch.device | str = "cpu"
) -> dict:
    """All measurements as one JSON-ready object."""
    torch.manual_seed(0)
    model = PlainNeRF(depth, width, coarse, fine).to(device)
    directions = torch.nn.functional.normalize(torch.randn(4096, 3, device=device), dim=-1)
    step = make_step(model, -4 * directions, directions, (directions + 1) / 2, 2.0, 6.0, rays)

    @torch.no_grad()
    def forward() -> None:
        model(-4 * directions[:rays], directions[:rays], 2.0, 6.0)

    products, operations = matrix_products(8192, width, 8, device)
    seconds = interleaved({"matmul": products, "forward": forward, "step": step}, rounds)
    return {
        "benchmark": "plain_nerf",
        "machine": machine(),
        "settings": {"rays": rays, "depth": depth, "width": width, "samples": [coarse, fine], "rounds": rounds,
                     "device": str(device), "type": "fp32"},
        "matmul_gflops": operations / seconds["matmul"] / 1e9,
        "step_ms": 1e3 * seconds["step"],
        "rays_per_second": rays / seconds["step"],
        "step_over_forward": seconds["step"] / seconds["forward"],
    }  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="A step of a NeRF written without a thought for speed.")
    parser.add_argument("--rays", type=int, default=256, help="rays of a step")
    parser.add_argument("--depth", type=int, default=8)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--coarse", type=int, default=64, help="coarse samples of a ray")
    parser.add_argument("--fine", type=int, default=128, help="further samples of the fine network")
    parser.add_argument("--rounds", type=positive, default=5, help="times that each is measured")
    parser.add_argument("--threads", type=int, default=None, help="threads of torch [all cores]")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    args = parser.parse_args(argv)
    if args.threads:
        torch.set_num_threads(args.threads)

    def result() -> dict:
        device = choose_device(args.device)
        return run(args.rays, args.depth, args.width, args.coarse, args.fine, args.rounds, device)

    return print_result("plain_nerf", result)


if __name__ == "__main__":
    keep_freed_memory()
    sys.exit(main())
