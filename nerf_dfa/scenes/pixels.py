"""Where a scene's pixels lie: in memory, or, where they are many, in a file that the system maps into memory."""

from __future__ import annotations

import math
import os
import tempfile

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from nerf_dfa.errors import UserError

# From so many bytes on pixels lie in a file: 4 GB of photographs then fit a laptop that has 8, because the system
# keeps of them what is being read and lets go of the rest.
MAPPED_FROM = 2 << 30


def empty_pixels(views: int, height: int, width: int, channels: int) -> UInt8[Tensor, "views height width channels"]:
    """A tensor for decoded images, not yet written to.

    From `MAPPED_FROM` bytes on it is a file mapped into memory, in the folder for temporary files (TMPDIR), that has no
    name and is gone with the tensor, whatever happens to the program.

    Raises:
        UserError: that folder has no room.
    """
    shape = (views, height, width, channels)
    size = math.prod(shape)
    if size < MAPPED_FROM:
        return torch.empty(shape, dtype=torch.uint8)
    try:
        with tempfile.TemporaryFile() as file:
            # All blocks now: a disk that fills up later would kill the program at the first write without a word.
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)
            return torch.from_numpy(np.memmap(file, np.uint8, "r+", shape=shape))
    except OSError as error:
        raise UserError(
            f"{tempfile.gettempdir()}: no room for the {size / 1e9:.1f} GB of {views} images of {width}x{height} "
            f"({error.strerror}); set TMPDIR to another folder, or load smaller images (--image_size)"
        ) from None
