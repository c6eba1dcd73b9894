"""--compile: the networks of a run through torch.compile."""

import json
import subprocess
import sys

import pytest
import torch

from nerf_dfa.nerf import train
from nerf_dfa.training.checkpoints import load_checkpoint

NAMES = "network_fn_state_dict", "network_fine_state_dict"
# In a process of its own: what is compiled cannot have its types checked. It says how many functions were compiled.
PROGRAM = """
import sys, torch
from nerf_dfa.nerf import train
functions, real = [], torch.compile
def compile(function, dynamic):
    functions.append(function)
    return real(function, dynamic=dynamic, backend="aot_eager")
torch.compile = compile
assert train.main(sys.argv[1:]) == 0
print(len(functions))
"""


def compiled_by(flags):
    made = subprocess.run([sys.executable, "-c", PROGRAM, *flags], capture_output=True, text=True, timeout=300)
    assert made.returncode == 0, made.stderr
    return int(made.stdout.split()[-1])


@pytest.mark.parametrize("learner", ["--learning_rule dfa", "--preset mirror-best"])
def test_a_compiled_run_learns_the_same_and_goes_on_without(flags, tmp_path, learner):
    flags = [*flags, *learner.split(), "--i_alignment", "3", "--basedir", str(tmp_path)]
    found = []
    for name, flag in (("plain", []), ("compiled", ["--compile"])):
        count = compiled_by([*flags, *flag, "--expname", name])
        found.append(load_checkpoint(sorted((tmp_path / name).glob("*.tar"))[-1]))
        assert count == len(flag) * sum(key in found[-1] for key in NAMES)
    plain, compiled = (json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("plain", "compiled"))
    for name, layer in plain["alignment"]["layers"].items():
        assert layer["samples"] > 0
        assert compiled["alignment"]["layers"][name] == pytest.approx(layer, rel=1e-2, abs=1e-2)
    for key in (key for key in NAMES if key in found[0]):
        for entry, weights in found[0][key].items():
            torch.testing.assert_close(found[1][key][entry], weights, rtol=1e-3, atol=1e-4)
    assert train.main([*flags, "--expname", "compiled", "--N_iters", "9"]) == 0


@pytest.mark.parametrize("rule", ["fdfa", "mdfa"])
def test_a_rule_that_probes_refuses_it(flags, capsys, rule):
    assert train.main([*flags, "--learning_rule", rule, "--compile"]) == 2
    assert "--compile has no effect here" in capsys.readouterr().err
