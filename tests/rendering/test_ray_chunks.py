"""Rays in chunks, in order and side by side."""

import threading
import time

import pytest
import torch

from nerf_dfa.rendering import Chunks
from nerf_dfa.rendering.chunks import FEW
from nerf_dfa.rendering.rays import Rays


@pytest.fixture(params=[1, 2, 3])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    assert torch.get_num_threads() == request.param
    torch.set_num_threads(before)


def some_rays(count):
    columns = torch.arange(3.0 * count).view(count, 3)
    return Rays(columns, -columns, columns / 2, columns[:, 0], columns[:, 1] + 9)


def first_and_last(rays):
    return rays.origins, rays.far


@pytest.mark.parametrize("count", [1, FEW, 3 * FEW, 5 * FEW + 1])
@pytest.mark.parametrize("size", [100, FEW, 1 << 20])
def test_results_keep_the_order_of_the_rays(threads, count, size):
    rays = some_rays(count)
    sizes = []

    def function(part):
        sizes.append(len(part.origins))
        return first_and_last(part)

    origins, far = Chunks(size).map(function, rays)
    torch.testing.assert_close(origins, rays.origins, rtol=0, atol=0)
    torch.testing.assert_close(far, rays.far, rtol=0, atol=0)
    assert max(sizes) <= size
    assert sum(sizes) == count
    if count >= threads * FEW:
        assert len(sizes) % threads == 0
        assert max(sizes) - min(sizes) <= 1


def test_each_of_several_calls_has_one_thread_and_what_the_caller_has_set(threads):
    seen, meet = set(), threading.Barrier(threads, timeout=30)

    def function(part):
        meet.wait()  # only calls that are under way together come through
        product = part.origins @ torch.ones(3, 3)
        seen.add((torch.get_num_threads(), torch.is_grad_enabled(), product.dtype))
        return (product,)

    with torch.autocast("cpu", torch.bfloat16):
        Chunks(FEW).map(function, some_rays(2 * threads * FEW))
    assert seen == {(1, False, torch.bfloat16)}


def test_threads_that_begin_later_have_as_many_as_before(threads):
    Chunks(FEW).map(first_and_last, some_rays(4 * FEW))
    later = []
    thread = threading.Thread(target=lambda: later.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert later == [threads]


def test_when_memory_runs_out_in_every_thread_the_size_is_halved_once_for_all(threads):
    halvings, rays = [], some_rays(4 * FEW)
    chunks = Chunks(FEW, halvings.append)

    def function(part):
        if len(part.origins) > 300:
            raise torch.OutOfMemoryError("no memory")
        return first_and_last(part)

    origins, _ = chunks.map(function, rays)
    torch.testing.assert_close(origins, rays.origins, rtol=0, atol=0)
    assert (chunks.size, halvings) == (256, [512, 256])


def test_what_one_call_raises_is_raised_and_no_other_call_begins(threads):
    calls = []

    def function(part):
        calls.append(part)
        time.sleep(0.01)
        raise RuntimeError("an error")

    with pytest.raises(RuntimeError, match="an error"):
        Chunks(16).map(function, some_rays(4 * FEW))
    assert len(calls) < 4 * FEW / 16
