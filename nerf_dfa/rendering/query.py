"""What fields say of samples along rays, as raw outputs: of all samples, or of packed ones that light comes to."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from nerf_dfa.fields.field import Field
from nerf_dfa.learning.selected import Selection, selected
from nerf_dfa.rendering.packed import Samples, in_sight, pack
from nerf_dfa.rendering.rays import Rays
from nerf_dfa.rendering.settings import RenderSettings

# Packed samples are filled up to a multiple: on CPUs a bf16 product of a number of rows that is new takes up to four
# times as long, because it is compiled first.
ROWS = 128


def learns(field: Field) -> bool:
    """Whether a pass is one of training."""
    return field.training and torch.is_grad_enabled()


def selects(field: Field, settings: RenderSettings) -> bool:
    """Whether only those of a pass's samples that err go back."""
    return settings.error_kept < 1 and learns(field)


def raw_outputs(
    field: Field,
    positions: Float[Tensor, "*batch 3"],
    viewdirs: Float[Tensor, "*#batch 3"],
    settings: RenderSettings,
    known: Float[Tensor, "*batch 4"] | None = None,
) -> Float[Tensor, "*batch 4"]:
    """field.raw, of which only the samples that err go back where the field `selects`; known: those, if they are."""
    if not selects(field, settings):
        return field.raw(positions, viewdirs)
    rows = positions.reshape(-1, 3), viewdirs.expand_as(positions).reshape(-1, 3)
    room = field.rooms.errors if settings.static_shapes else None
    selection = Selection(settings.error_kept, settings.samples_back, ROWS)
    raw = selected(field.raw, selection, *rows, room=room, known=known)
    return raw.view(*positions.shape[:-1], 4)


def query(
    field: Field, rays: Rays, t: Float[Tensor, "rays samples"], settings: RenderSettings
) -> Float[Tensor, "rays samples 4"]:
    """The field's raw outputs at depths t of the rays, at most about `netchunk` points at a time."""
    step = max(1, settings.netchunk // t.shape[1])
    raw = []
    for i in range(0, t.shape[0], step):
        o, d, v = rays.origins[i : i + step], rays.directions[i : i + step], rays.viewdirs[i : i + step]
        positions = o[:, None] + t[i : i + step, :, None] * d[:, None]
        raw.append(raw_outputs(field, positions, v[:, None], settings))
    return torch.cat(raw) if len(raw) > 1 else raw[0]


def query_packed(
    look: Callable[[Tensor, Tensor, Tensor], Tensor], rays: Rays, samples: Samples, netchunk: int
) -> Tensor:
    """What `look` says of samples of their own on each ray, in parts of about the same size, each a multiple of ROWS.

    look: of positions (n, 3), directions (n, 3) and the samples' numbers (n,); the last one fills the last part.
    """
    count, found = len(samples.ray), []
    numbers = torch.arange(count + -count % ROWS, device=samples.ray.device).clamp(max=max(0, count - 1))
    size = -(-max(1, count) // math.ceil(max(1, count) / netchunk) // ROWS) * ROWS
    for rows in numbers.split(size):
        ray = samples.ray.index_select(0, rows)  # in place of [rows], which takes twice as long
        o, d, v = (x.index_select(0, ray) for x in (rays.origins, rays.directions, rays.viewdirs))
        found.append(look(o + samples.t.index_select(0, rows)[:, None] * d, v, rows))
    return (torch.cat(found) if len(found) > 1 else found[0])[:count]


def packed_outputs(
    fields: Sequence[Field],
    rays: Rays,
    t: Float[Tensor, "rays samples"],
    delta: Float[Tensor, "rays samples"],
    occupied: Bool[Tensor, "rays samples"],
    settings: RenderSettings,
    ends: bool,
) -> tuple[Samples, Float[Tensor, "n 4"]]:
    """The occupied samples that light comes to, and the mean of the fields' raw outputs there.

    ends: whether a first pass without gradients follows each ray until it is dark. Where none are taken, or only
    samples that err go back, it gives the outputs; else densities alone (of one field), and a second pass gives the
    outputs of what it found. Where not, or shapes are static, samples in the dark are there, too.
    """

    def outputs(samples: Samples, known: Tensor | None = None) -> Tensor:
        def of_field(field: Field) -> Tensor:
            return query_packed(
                lambda x, d, rows: raw_outputs(field, x, d, settings, None if known is None else known[rows]),
                rays,
                samples,
                settings.netchunk,
            )

        return mean_of([of_field(field) for field in fields])

    def look(samples: Samples) -> tuple[Tensor, Tensor | None]:
        if again:
            return query_packed(lambda x, d, rows: field.density(x), rays, samples, settings.netchunk), None
        raw = outputs(samples)
        return field.activate(raw)[0], raw

    field, known = fields[0], None
    static = settings.static_shapes and learns(field)
    again = torch.is_grad_enabled() and not selects(field, settings) and len(fields) == 1
    samples = pack(occupied, t, delta, field.rooms.samples if static else None)
    if ends and not static:
        samples, known = in_sight(samples, len(t), look)
    if known is not None and not torch.is_grad_enabled():
        return samples, known
    return samples, outputs(samples, known)


def mean_of(values: Sequence[Tensor]) -> Tensor:
    return values[0] if len(values) == 1 else torch.stack(tuple(values)).mean(0)
