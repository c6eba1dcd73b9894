"""Feedback estimated by forward perturbation (fdfa): no weight is transported and nothing flows backward.

Every k-th forward pass each hidden layer's activations are given a random tangent u_i, and forward-mode derivatives
carry all of them up to the output in the same pass. The output's tangent d = sum_i J_i u_i then holds, on average
over u, the Jacobian of every layer: E[d u_i^T] = s_i^2 J_i, J_i = dy/dh_i. The tangents are u_i = s_i r_i u, with
random signs u for every unit and sample, and one random sign r_i for every layer and sample: for E[u_i u_k^T] = 0
between layers that is as good as signs of their own. s_i is the root mean square of the layer's activations h_i: every
layer's tangent is noise to the estimates of all others, and so none should move the output much more than another;
in a ReLU network without biases J_i h_i is the same y for every layer. The feedback matrix follows the mean Jacobian,
with samples weighted by how much they err, and learns only from what it does not yet explain of the tangent (least
mean squares, Widrow and Hoff 1960):

    B_i <- B_i + b_c / s_i^2 sum_n w_nc (d_nc - sum_k B_k u_kn) u_ni,   w_nc = |e_nc| / sum_n |e_nc|

On average over u that is (1 - b) B_i + b J_i. But the plain average of d u_i has as noise all other units' part in d, D
of them, and a few samples often have most of the error: 1 / sum_n w_nc^2 of them count, some hundreds in a radiance
field. Here what the matrices know is no noise; where all samples have one Jacobian there is none at the end. The step

    b_c = 1 / (1 + (D - 1) sum_n w_nc^2), at most `average`,   D = sum_i l_i

is the one that brings B nearest to the mean Jacobian in one probe; twice that would diverge. The signs' products with
themselves make it exact: E[(sum_n w_n u_n u_n^T)^2] = I + (D - 1) sum_n w_n^2 I. A pass that probes costs one forward
pass more.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.autograd.forward_ad as forward_ad
import torch.nn.functional as F
from torch import Tensor

from nerf_dfa.learning.broadcast import broadcast, passed_by_relu
from nerf_dfa.learning.estimated import EstimatedFeedback
from nerf_dfa.learning.signs import random_signs
from nerf_dfa.learning.tapes import Record


class ProbedFeedback(EstimatedFeedback):
    """A matrix for every layer that follows the mean Jacobian; `average` is the largest step b."""

    @torch.no_grad()
    def observe(
        self, error: Tensor, tangent: Tensor, flips: Sequence[Tensor], scales: Sequence[Tensor], signs: Tensor
    ) -> None:
        """Moves the matrices towards the mean Jacobian, by one probe.

        error, tangent: (..., c), dL/dy and the output's derivative along the tangents s_i r_i u; flips: r_i (..., 1) of
        every layer; scales: s_i of every layer; signs: u (..., at least the largest l_i).
        """
        if not error.numel():  # no row that could say anything
            return
        c, matrices = error.shape[-1], self.matrices
        weights = shares(error.reshape(-1, c).float())
        signs = signs.reshape(-1, signs.shape[-1])
        flips = torch.cat([flip.reshape(-1, 1) for flip in flips], dim=1)[..., None]  # (rows, layers, 1)
        largest = self.largest_step()
        if self.estimates == 1:
            for matrix in matrices:
                matrix.zero_()
        # One product for all layers: their matrices, in units of their tangents, below one another.
        known = torch.cat(
            [F.pad(m * s, (0, signs.shape[1] - m.shape[1])) for m, s in zip(matrices, scales, strict=True)]
        )
        explained = ((signs @ known.T.to(signs.dtype)).view(-1, len(matrices), c) * flips).sum(1)
        directions = sum(matrix.shape[1] for matrix in matrices)
        step = 1 / (1 + (directions - 1) * weights.square().sum(0))
        step = step.clamp(max=largest)
        new = step * weights * (tangent.reshape(-1, c).float() - explained.float())
        moves = (new[:, None] * flips).flatten(1).to(signs.dtype).T @ signs
        for matrix, scale, move in zip(matrices, scales, moves.split(c), strict=True):
            matrix += (move[:, : matrix.shape[1]] / scale).to(matrix.dtype)


class Probe(Record):
    """A learning pass that also perturbs: forward-mode tangents from every feedback point to the output.

    Forward mode has one level, open from the first point to the output. A pass that fails in between leaves it open,
    and the next probe closes it.
    """

    _open: Probe | None = None

    def __init__(self, feedback: ProbedFeedback) -> None:
        super().__init__(feedback)
        self._signs: Tensor | None = None  # u
        self._flips: list[Tensor] = []  # r_i
        self._scales: list[Tensor] = []  # s_i
        if Probe._open is not None:
            Probe._open._leave()
        self._level: forward_ad.dual_level | None = forward_ad.dual_level()
        self._level.__enter__()
        Probe._open = self

    def _leave(self) -> None:
        if self._level is not None:
            self._level.__exit__(None, None, None)
            self._level = Probe._open = None

    def hidden(self, h: Tensor) -> Tensor:
        primal, tangent = forward_ad.unpack_dual(h)
        return self._perturb(super().hidden(primal), None if tangent is None else tangent.detach().clone())

    def relu_(self, z: Tensor) -> Tensor:
        primal, tangent = forward_ad.unpack_dual(z)
        below = super().relu_(primal)
        return self._perturb(below, None if tangent is None else passed_by_relu(tangent.detach(), below, in_place=True))

    def _perturb(self, below: Tensor, tangent: Tensor | None) -> Tensor:
        """What the next layer reads, with the layer's own signs added to the tangent that comes from below."""
        if self._signs is None:
            self._signs = random_signs((*below.shape[:-1], self.feedback.widest), below)
        flip, signs = random_signs((*below.shape[:-1], 1), below), self._signs[..., : below.shape[-1]].to(below.dtype)
        scale = root_mean_square(below)
        self._flips.append(flip)
        self._scales.append(scale)
        flip = flip * scale.to(below.dtype)
        # Cut from the graph: the tangents' own derivatives are never wanted.
        return forward_ad.make_dual(below, flip * signs if tangent is None else tangent.addcmul_(flip, signs))

    def output(self, y: Tensor) -> Tensor:
        if self._level is None:
            raise RuntimeError("two probing passes were open at once; networks under fdfa cannot be nested")
        primal, tangent = forward_ad.unpack_dual(y)
        self._leave()
        tokens = self.close(primal)
        if tangent is None:
            raise RuntimeError(
                "no forward derivative of the feedback points reached the output, by which fdfa learns its feedback: "
                "torch.compile loses them (compile networks of other rules), or nothing leads from a point there"
            )
        tangent = tangent.detach()

        def observe(error: Tensor) -> None:
            self.feedback.observe(error, tangent, self._flips, self._scales, self._signs)

        return broadcast(self.feedback, primal, tokens, observe)


def shares(error: Tensor) -> Tensor:
    """|e| (rows, c) of each column's sum; 1 / rows in a column of zeros."""
    magnitude = error.abs()
    total = magnitude.sum(0)
    return torch.where(total > 0, magnitude / total.clamp(min=1e-30), 1 / magnitude.shape[0])


def root_mean_square(h: Tensor) -> Tensor:
    """Of all numbers, at least in float32; within bounds, so that a silent layer has a tangent all the same."""
    kind = torch.promote_types(h.dtype, torch.float32)
    return (torch.linalg.vector_norm(h, dtype=kind) / h.numel() ** 0.5).clamp(1e-3, 1e3)
