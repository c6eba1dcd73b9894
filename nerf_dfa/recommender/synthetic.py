"""Criteo-like data of which the law of clicks is known, for tests and for scale.

Each category has a hidden sign, the parity of its number. The log-odds of a click are

    pair * s_1 s_2 + triple * s_3 s_4 s_5 + bias

with s_i the sign of category C_i: interactions of order 2 and 3 that no field shows alone. All other columns are noise.

python -m nerf_dfa.recommender.synthetic FILE --rows 1000000
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float64, Int, UInt8

from nerf_dfa.files import written_whole
from nerf_dfa.recommender.criteo import CATEGORIES, INTEGERS
from nerf_dfa.training.program import Parser, positive, run_program, seed

BLOCK = 1 << 16
MISSING = 0.1  # fraction of cells, but for those that decide


@dataclass(frozen=True)
class Law:
    """values: of each category, the deciding ones C1 to C5 uniform, the others by Zipf's law."""

    pair: float = 1.5
    triple: float = 1.5
    bias: float = -0.5
    values: int = 100_000
    deciding_values: int = 20

    def logits(self, categories: Int[np.ndarray, "rows 26"]) -> Float64[np.ndarray, " rows"]:
        signs = 1.0 - 2.0 * (categories[:, :5] % 2)
        return self.pair * signs[:, :2].prod(1) + self.triple * signs[:, 2:5].prod(1) + self.bias


def draw(
    law: Law, rows: int, generator: np.random.Generator
) -> tuple[Int[np.ndarray, "rows 13"], Int[np.ndarray, "rows 26"], UInt8[np.ndarray, " rows"]]:
    """Integers and categories (-1 where missing), and clicks."""
    integers = np.floor(np.exp(generator.normal(2, 2, (rows, INTEGERS)))).astype(np.int64) - 1
    # The inverse of the distribution function of a density proportional to 1 / x on [1, values).
    categories = (law.values ** generator.random((rows, CATEGORIES))).astype(np.int64)
    categories[:, :5] = generator.integers(law.deciding_values, size=(rows, 5))
    clicks = generator.random(rows) < 1 / (1 + np.exp(-law.logits(categories)))
    integers = np.where(generator.random(integers.shape) < MISSING, -1, np.maximum(integers, 0))
    categories[:, 5:][generator.random((rows, CATEGORIES - 5)) < MISSING] = -1
    return integers, categories, clicks.astype(np.uint8)


def criteo_text(law: Law, rows: int, seed: int) -> Iterator[bytes]:
    """Rows in Criteo's format."""
    generator = np.random.default_rng(seed)
    while rows > 0:
        integers, categories, clicks = draw(law, min(rows, BLOCK), generator)
        # A page of characters, 0 where none is: squeezed out at the end.
        cells = [clicks[:, None] + ord("0"), *(_decimal(column) for column in integers.T)]
        cells += [_hexadecimal(column, number) for number, column in enumerate(categories.T)]
        delimiter = np.full((len(clicks), 1), ord("\t"), np.uint8)
        page = np.concatenate([part for cell in cells for part in (cell, delimiter)], axis=1)
        page[:, -1] = ord("\n")
        yield page[page != 0].tobytes()
        rows -= len(clicks)


def write_criteo(path: Path, rows: int, seed: int = 0, law: Law | None = None) -> Path:
    with written_whole(path) as unfinished, open(unfinished, "wb") as file:
        file.writelines(criteo_text(law or Law(), rows, seed))
    return path


def _decimal(values: Int[np.ndarray, " rows"]) -> UInt8[np.ndarray, "rows 9"]:
    values = np.minimum(values, 10**9 - 1)
    powers = 10 ** np.arange(8, -1, -1)
    shown = (values[:, None] >= powers) | ((values[:, None] >= 0) & (powers == 1))
    return np.where(shown, values[:, None] // powers % 10 + ord("0"), 0).astype(np.uint8)


def _hexadecimal(values: Int[np.ndarray, " rows"], field: int) -> UInt8[np.ndarray, "rows 8"]:
    """Eight digits that look random and differ for different values (an odd factor modulo 2^32)."""
    hashed = (values * 2654435761 + field * 97) % (1 << 32)
    digits = hashed[:, None] >> np.arange(28, -1, -4) & 15
    return np.where(values[:, None] >= 0, np.frombuffer(b"0123456789abcdef", np.uint8)[digits], 0).astype(np.uint8)


def main(argv: list[str] | None = None) -> int:
    def body() -> None:
        parser = Parser(prog="python -m nerf_dfa.recommender.synthetic", description=__doc__.splitlines()[0])
        parser.add_argument("file", type=Path)
        parser.add_argument("--rows", type=positive, default=1_000_000, help="[%(default)s]")
        parser.add_argument("--seed", type=seed, default=0, help="[%(default)s]")
        arguments = parser.parse_args(argv)
        write_criteo(arguments.file, arguments.rows, arguments.seed)

    return run_program("synthetic", body)


if __name__ == "__main__":
    sys.exit(main())
