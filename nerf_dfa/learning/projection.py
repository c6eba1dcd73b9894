"""Projections: the product e @ B, wherever and however it is computed.

A projection turns errors (..., c) into (..., width) by the first `width` columns of a fixed matrix B (c, max_width)
with entries of about unit variance. Its interface is three names, so that a hardware projector can stand in:

    class MyProjector(Projection):
        def forward(self, error, width): ...        # (..., c) -> (..., width), no gradient is asked for

| kind         | entries of B                                  | kept, for c x w | source              |
|--------------|-----------------------------------------------|-----------------|---------------------|
| `uniform`    | U(-1, 1)                                      | 32 c w bits     | Launay et al. 2020  |
| `normal`     | N(0, 1)                                       | 32 c w bits     | Launay et al. 2019  |
| `orthogonal` | orthogonal rows (columns if c > w), rms 1     | 32 c w bits     | Saxe et al. 2014    |
| `binary`     | -1 or +1                                      | c w bits        | Han and Yoo 2019    |
| `sparse`     | k of c entries per column, N(0, c / k)        | 96 k w bits     | Crafton et al. 2019 |
| `seeded`     | U(-1, 1), drawn anew for every product        | 64 bits         |                     |
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

# Columns made at a time where the matrix is not kept as numbers.
BLOCK = 4096


class Projection(nn.Module):
    """The product with one fixed matrix B (error_width, max_width)."""

    def __init__(self, error_width: int, max_width: int) -> None:
        super().__init__()
        self.error_width, self.max_width = error_width, max_width

    def forward(self, error: Float[Tensor, "*batch c"], width: int) -> Float[Tensor, "*batch width"]:
        """error @ B[:, :width], in the error's type and on its device."""
        raise NotImplementedError

    def extra_repr(self) -> str:
        return f"{self.error_width}, {self.max_width}"


class Dense(Projection):
    """A matrix kept as it is, as the buffer `matrix`."""

    def __init__(self, matrix: Float[Tensor, "c max_width"]) -> None:
        super().__init__(*matrix.shape)
        self.register_buffer("matrix", matrix)

    def forward(self, error: Float[Tensor, "*batch c"], width: int) -> Float[Tensor, "*batch width"]:
        return error @ self.matrix[:, :width].to(error.dtype)


class Sparse(Projection):
    """k entries per column (hidden unit): each unit listens to k outputs. k = 1 is SSDFA.

    Computed as k gathers; N * width * k products in place of N * width * c.
    """

    def __init__(self, error_width: int, max_width: int, k: int = 1) -> None:
        super().__init__(error_width, max_width)
        if not 1 <= k <= error_width:
            raise ValueError(f"a sparse column has 1 to {error_width} entries, got k = {k}")
        rows = torch.rand(max_width, error_width).argsort(dim=1)[:, :k].T.contiguous()
        self.register_buffer("rows", rows)  # (k, max_width), each column's outputs, all different
        self.register_buffer("values", torch.randn(k, max_width) * (error_width / k) ** 0.5)

    def forward(self, error: Float[Tensor, "*batch c"], width: int) -> Float[Tensor, "*batch width"]:
        values = self.values[:, :width].to(error.dtype)
        return sum(error[..., row[:width]] * value for row, value in zip(self.rows, values, strict=True))


class Binary(Projection):
    """Signs, eight to a byte in memory and in the checkpoint."""

    def __init__(self, error_width: int, max_width: int) -> None:
        super().__init__(error_width, max_width)
        bits = torch.randint(0, 2, (error_width, -(-max_width // 8), 8), dtype=torch.uint8)
        self.register_buffer("packed", (bits << torch.arange(8, dtype=torch.uint8)).sum(-1, dtype=torch.uint8))

    def forward(self, error: Float[Tensor, "*batch c"], width: int) -> Float[Tensor, "*batch width"]:
        shifts = torch.arange(8, dtype=torch.uint8, device=error.device)

        def signs(start: int, end: int) -> Tensor:
            bits = (self.packed[:, start // 8 : -(-end // 8), None] >> shifts) & 1
            return bits.flatten(1)[:, : end - start].to(error.dtype) * 2 - 1

        return by_blocks(error, width, signs)


class Seeded(Projection):
    """U(-1, 1) from a seed, drawn block by block for every product: no matrix is kept at all.

    The numbers are drawn on the CPU, so that they are the same whatever device the network is on.
    """

    def __init__(self, error_width: int, max_width: int) -> None:
        super().__init__(error_width, max_width)
        self.register_buffer("seed", torch.randint(0, 2**31, ()))

        self._number: int | None = None  # the seed once it was read, for which a GPU waits

    def _load_from_state_dict(self, *args: Any) -> None:
        self._number = None
        super()._load_from_state_dict(*args)

    def forward(self, error: Float[Tensor, "*batch c"], width: int) -> Float[Tensor, "*batch width"]:
        if self._number is None:
            self._number = int(self.seed)

        def drawn(start: int, end: int) -> Tensor:
            generator = torch.Generator().manual_seed(self._number + start)
            # A whole block, so that a column does not depend on the width that is asked for.
            block = torch.rand(self.error_width, BLOCK, generator=generator)[:, : end - start]
            return (block * 2 - 1).to(error.device, error.dtype)

        return by_blocks(error, width, drawn)


class OnDevice(Projection):
    """Another projection that lives elsewhere: errors travel to its device, signals travel back."""

    def __init__(self, inner: Projection, device: torch.device | str) -> None:
        super().__init__(inner.error_width, inner.max_width)
        self.device = torch.device(device)
        self.inner = inner.to(self.device)

    def _apply(self, function: Callable, recurse: bool = True) -> OnDevice:
        return self  # it stays where it is when the network moves

    def forward(self, error: Float[Tensor, "*batch c"], width: int) -> Float[Tensor, "*batch width"]:
        return self.inner(error.to(self.device), width).to(error.device)


def by_blocks(error: Tensor, width: int, columns: Callable[[int, int], Tensor]) -> Tensor:
    """error @ B[:, :width] where columns(start, end) makes B[:, start:end]; start is a multiple of BLOCK."""
    parts = [error @ columns(start, min(start + BLOCK, width)) for start in range(0, width, BLOCK)]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)


def _orthogonal(error_width: int, max_width: int) -> Tensor:
    matrix = nn.init.orthogonal_(torch.empty(error_width, max_width))
    return matrix * max(error_width, max_width) ** 0.5


PROJECTIONS: dict[str, Callable[..., Projection]] = {
    "uniform": lambda c, width: Dense(torch.rand(c, width) * 2 - 1),
    "normal": lambda c, width: Dense(torch.randn(c, width)),
    "orthogonal": lambda c, width: Dense(_orthogonal(c, width)),
    "binary": Binary,
    "sparse": Sparse,
    "seeded": Seeded,
}


def make_projection(kind: str, error_width: int, max_width: int, **options: int) -> Projection:
    """A projection of the table above, drawn from torch's global generator. options: k for `sparse`."""
    if kind not in PROJECTIONS:
        raise ValueError(f"unknown feedback '{kind}'; there are {', '.join(PROJECTIONS)}")
    return PROJECTIONS[kind](error_width, max_width, **options)
