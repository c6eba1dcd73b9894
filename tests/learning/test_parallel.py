"""torch.compile and several processes need nothing special."""

import itertools
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from nerf_dfa.learning import make_rule


class Net(nn.Module):
    def __init__(self, rule="dfa", in_place=False):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise((6, 16, 16, 8)))
        self.head = nn.Linear(8, 3)
        self.in_place = in_place
        self.rule = make_rule(rule, 3, [16, 16, 8]).prepare(self)

    def forward(self, x):
        tape = self.rule.tape()
        for layer in self.layers:
            x = tape.relu_(layer(x)) if self.in_place else tape.hidden(torch.relu(layer(x)))
        return tape.output(self.head(x))


def gradients(net, x):
    net.zero_grad()
    y = net(x)
    y.square().mean().backward()
    return y.detach(), {name: p.grad.clone() for name, p in net.named_parameters()}


COMPILE = """
import itertools, sys, torch
sys.path.insert(0, sys.argv[1])
from test_parallel import Net, gradients
for rule, in_place in itertools.product(("bp", "dfa", "dkp"), (False, True)):
    torch.manual_seed(0)
    net, x = Net(rule, in_place), torch.randn(32, 6)
    y, expected = gradients(net, x)
    compiled = torch.compile(net, backend="aot_eager", fullgraph=True)  # a graph break would raise
    net.zero_grad()
    out = compiled(x)
    out.square().mean().backward()
    torch.testing.assert_close(out, y)
    for name, p in net.named_parameters():
        torch.testing.assert_close(p.grad, expected[name])
"""


def test_compile_takes_a_network_as_one_graph():
    """In a process of its own, where no shape checks are woven into the functions."""
    done = subprocess.run(
        [sys.executable, "-c", COMPILE, str(Path(__file__).parent)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr


def work(rank, rule, folder):
    """One of two processes: its half of the batch, and the gradients saved by the first."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    torch.manual_seed(0)
    net = Net(rule)
    x = torch.randn(8, 6)
    model = nn.parallel.DistributedDataParallel(net)
    model(x.chunk(2)[rank]).square().mean().backward()
    if rank == 0:
        torch.save({name: p.grad for name, p in net.named_parameters()}, f"{folder}/gradients.pt")
    dist.barrier()
    os._exit(0)  # gloo's threads may abort a process that takes itself apart in an orderly way


@pytest.mark.parametrize("rule", ["dfa", "dkp"])
def test_two_processes_have_the_gradients_of_one(rule, tmp_path):
    if not dist.is_available() or not dist.is_gloo_available():
        pytest.skip("this torch has no gloo")
    torch.manual_seed(0)
    net = Net(rule)
    _, expected = gradients(net, torch.randn(8, 6))
    mp.spawn(work, (rule, str(tmp_path)), nprocs=2)
    got = torch.load(tmp_path / "gradients.pt", weights_only=True)
    assert got.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(got[name], gradient)
