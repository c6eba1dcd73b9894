"""A feedback matrix for an error as wide as a vocabulary, whose product costs little more than reading the error.

B = S R: a count sketch (Charikar et al. 2002; feature hashing, Weinberger et al. 2009) adds each output, with a random
sign, to one of few buckets, and a dense random matrix spreads the buckets. Every hidden unit hears every output, as
from a dense matrix; outputs of one bucket differ in nothing but their signs. Output t goes to bucket t mod buckets,
and a byte-pair vocabulary is ordered by frequency, so that common tokens share a bucket with rare ones alone.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from nerf_dfa.learning.projection import Projection


class Hashed(Projection):
    """Entries U(-1, 1) / max_width^1/2, the same but for signs in c / buckets rows each; the rank is `buckets` at most.

    Kept: a byte for each output, and buckets x max_width numbers. Computed: an addition for each number of the error,
    and N buckets width products in place of N c width.
    """

    def __init__(self, error_width: int, max_width: int, buckets: int) -> None:
        super().__init__(error_width, max_width)
        self.buckets = min(buckets, error_width)
        self.register_buffer("signs", (torch.randint(0, 2, (error_width,)) * 2 - 1).to(torch.int8))
        self.register_buffer("spread", (torch.rand(self.buckets, max_width) * 2 - 1) * max_width**-0.5)

    def forward(self, error: Float[Tensor, "*batch c"], width: int) -> Float[Tensor, "*batch width"]:
        signs = self.signs.to(error.dtype)
        sketch = error[..., : self.buckets] * signs[: self.buckets]
        for start in range(self.buckets, self.error_width, self.buckets):  # one pass over the error, without a copy
            part = error[..., start : start + self.buckets]
            sketch[..., : part.shape[-1]].addcmul_(part, signs[start : start + self.buckets])
        return sketch @ self.spread[:, :width].to(error.dtype)
