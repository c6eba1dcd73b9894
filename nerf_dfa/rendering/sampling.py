"""Where along a ray the field is asked.

`t` are depths of samples, in ascending order; `edges` are the ends of bins; `weights` belong to bins and need
not sum to one. A generator makes the samples random; None makes them deterministic.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

EPSILON = 1e-5  # keeps a ray whose weights are all zero from dividing by zero; its samples are then uniform


def stratified(
    near: Float[Tensor, "*batch"],
    far: Float[Tensor, "*batch"],
    count: int,
    lindisp: bool = False,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "*batch {count}"]:
    """One sample in each of `count` strata of [near, far] (NeRF, equation 2); their grid points without a generator.

    The strata are equal in depth, or in disparity 1/t if `lindisp`. Grid points include near and far, and a
    random sample lies between the midpoints to its neighbours, as in the authors' code.
    """
    s = torch.linspace(0, 1, count, dtype=near.dtype, device=near.device)
    near, far = near[..., None], far[..., None]
    t = 1 / (1 / near * (1 - s) + 1 / far * s) if lindisp else near * (1 - s) + far * s
    if generator is None:
        return t
    middle = (t[..., 1:] + t[..., :-1]) / 2
    upper = torch.cat([middle, t[..., -1:]], dim=-1)
    lower = torch.cat([t[..., :1], middle], dim=-1)
    return lower + (upper - lower) * torch.rand(t.shape, dtype=t.dtype, device=t.device, generator=generator)


def inverse_transform(
    edges: Float[Tensor, "*batch edges"],
    weights: Float[Tensor, "*batch edges-1"],
    count: int,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "*batch {count}"]:
    """`count` samples of the piecewise constant density with these bins (NeRF, section 5.2).

    Without a generator the samples are the quantiles 0, 1/(count-1), ..., 1. Ascending along the last dimension
    only without a generator.
    """
    pdf = weights + EPSILON
    pdf = pdf / pdf.sum(-1, keepdim=True)
    cdf = pdf.cumsum(-1).clamp(max=1)
    cdf = torch.cat([torch.zeros_like(cdf[..., :1]), cdf], dim=-1)  # (..., bins + 1)
    shape = (*cdf.shape[:-1], count)
    if generator is None:
        u = torch.linspace(0, 1, count, dtype=cdf.dtype, device=cdf.device).expand(shape).contiguous()
    else:
        u = torch.rand(shape, dtype=cdf.dtype, device=cdf.device, generator=generator)
    above = torch.searchsorted(cdf.contiguous(), u, right=True).clamp(1, weights.shape[-1])
    below = above - 1
    cdf_below, cdf_above = cdf.gather(-1, below), cdf.gather(-1, above)
    t_below, t_above = edges.gather(-1, below), edges.gather(-1, above)
    fraction = ((u - cdf_below) / (cdf_above - cdf_below).clamp(min=1e-12)).clamp(0, 1)
    return t_below + fraction * (t_above - t_below)


def refine(
    t: Float[Tensor, "*batch coarse"],
    weights: Float[Tensor, "*batch coarse"],
    count: int,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "*batch coarse+{count}"]:
    """The coarse samples joined by `count` more, drawn where the coarse weights are large; ascending.

    Bins lie between the midpoints of the coarse samples and carry the inner samples' weights, as in the authors'
    code. No gradient flows through the places of the samples.
    """
    middle = (t[..., 1:] + t[..., :-1]) / 2
    fine = inverse_transform(middle, weights[..., 1:-1].detach(), count, generator)
    return torch.cat([t, fine], dim=-1).sort(dim=-1).values
