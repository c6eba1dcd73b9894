"""What the programs of the tasks have in common."""

import pytest
import torch

from nerf_dfa.training.program import run_program


@pytest.mark.parametrize("allocate", [lambda: torch.empty(1 << 50), lambda: bytearray(1 << 60)])
def test_too_little_memory_is_one_line(capsys, allocate):
    assert run_program("task", allocate) == 2
    assert capsys.readouterr().err == "task: error: out of memory: give a smaller batch or model, or fewer --jobs\n"


def test_other_mistakes_of_the_program_are_not_hidden():
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        run_program("task", lambda: torch.ones(2, 3) @ torch.ones(2, 3))
