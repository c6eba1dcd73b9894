"""The trainer on a task that has nothing to do with scenes."""

import os
import signal

import pytest
import torch
from torch import nn

from nerf_dfa.errors import UserError
from nerf_dfa.training.checkpoints import list_checkpoints, load_checkpoint, load_weights, save_checkpoint
from nerf_dfa.training.schedules import exponential, rising
from nerf_dfa.training.trainer import Trainer


class Regression:
    """Fits y = 3 x - 1 from noisy samples; the task draws from the generator and from torch's own."""

    def batch(self, step, generator):
        x = torch.randn(16, 1, generator=generator)
        return x, 3 * x - 1 + 0.1 * torch.randn(16, 1)

    def loss(self, model, batch, generator):
        x, y = batch
        loss = (model(x) - y).square().mean()
        return loss, {"rmse": loss.detach().sqrt()}

    def evaluate(self, model):
        return {}


def make_trainer():
    torch.manual_seed(3)
    model = nn.Linear(1, 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    return Trainer(model, Regression(), optimizer, exponential(0.1, 100), torch.Generator().manual_seed(5))


def test_it_learns():
    trainer = make_trainer()
    trainer.schedule = exponential(0.1, 0)
    assert trainer.run(200)
    assert trainer.model.weight.item() == pytest.approx(3, abs=0.1)
    assert trainer.model.bias.item() == pytest.approx(-1, abs=0.1)


def test_a_resumed_run_equals_an_unbroken_one_bit_for_bit(tmp_path):
    whole = make_trainer()
    whole.run(20)

    broken = make_trainer()
    broken.run(8)
    path = broken.save(tmp_path)
    assert path.name == "000008.tar"
    resumed = make_trainer()
    torch.manual_seed(77)  # another process has another state
    resumed.load(path)
    resumed.run(20)
    assert resumed.finished == 20
    for a, b in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_run_goes_on_where_there_are_fewer_gpus(tmp_path, monkeypatch):
    contents = make_trainer().state()
    contents["cuda_rng_states"] = [torch.tensor([i], dtype=torch.uint8) for i in range(3)]
    torch.save(contents, tmp_path / "000000.tar")
    restored = {}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, number: restored.update({number: int(state)}))
    make_trainer().load(tmp_path / "000000.tar")
    assert restored == {0: 0, 1: 1}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_between_two_steps_and_leaves_it_whole(tmp_path, number):
    whole = make_trainer()
    whole.run(20)

    trainer = make_trainer()
    trainer.every(7, lambda _: os.kill(os.getpid(), number))
    assert not trainer.run(20)
    assert trainer.finished == 7
    assert signal.getsignal(number) is not None
    trainer.hooks.clear()
    assert trainer.run(20)
    assert torch.equal(trainer.model.weight, whole.model.weight)


def test_hooks_come_at_their_intervals_with_numbers():
    trainer, seen = make_trainer(), []
    trainer.every(3, lambda p: seen.append((p.step, sorted(p.numbers()))))
    trainer.every(0, lambda p: pytest.fail("interval 0 means never"))
    trainer.run(7)
    assert seen == [(3, ["loss", "rmse"]), (6, ["loss", "rmse"])]


def test_a_schedule_may_rise_from_nothing_first():
    schedule, plain = rising(exponential(5e-4, 1000), 4), exponential(5e-4, 1000)
    assert [schedule(step) / plain(step) for step in range(6)] == pytest.approx([0.25, 0.5, 0.75, 1, 1, 1])
    assert rising(plain, 0)(0) == plain(0)


def test_the_exponential_schedule_falls_tenfold():
    schedule = exponential(5e-4, 1000)
    assert schedule(0) == 5e-4
    assert schedule(500) == pytest.approx(5e-4 / 10**0.5)
    assert schedule(1000) == pytest.approx(5e-5)
    assert exponential(1e-3, 0)(12345) == 1e-3


def test_the_learning_rate_follows_the_schedule():
    trainer = make_trainer()
    trainer.run(51)
    assert trainer.optimizer.param_groups[0]["lr"] == pytest.approx(0.1 * 10**-0.5)


def test_checkpoints_are_listed_by_step_and_leave_no_temporary_file(tmp_path):
    for step in (1000000, 20, 3):
        save_checkpoint(tmp_path / f"{step:06d}.tar", {"global_step": step})
    (tmp_path / "notes.tar").write_text("not one")
    assert [p.stem for p in list_checkpoints(tmp_path)] == ["000003", "000020", "1000000"]
    assert len(list(tmp_path.iterdir())) == 4
    assert list_checkpoints(tmp_path / "nowhere") == []


def test_a_failed_write_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "000001.tar"
    save_checkpoint(path, {"a": 1})

    def full(contents, file):
        file.write(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(UserError, match=r"cannot write checkpoint .*000001.tar: .*No space left"):
        save_checkpoint(path, {"a": 2})
    assert load_checkpoint(path) == {"a": 1}
    assert list(tmp_path.iterdir()) == [path]


class Evil:
    def __reduce__(self):
        return (os.system, ("touch /tmp/nerf_dfa_was_here",))


@pytest.mark.parametrize("kind", ["missing", "rubbish", "truncated", "code", "list"])
def test_files_that_are_no_checkpoints_are_named_in_one_line(tmp_path, kind):
    path = tmp_path / "000001.tar"
    if kind == "rubbish":
        path.write_bytes(b"rubbish" * 100)
    elif kind == "truncated":
        save_checkpoint(path, {"a": torch.zeros(1000)})
        path.write_bytes(path.read_bytes()[:-500])
    elif kind == "code":
        torch.save({"a": Evil()}, path)
    elif kind == "list":
        torch.save([1, 2], path)
    with pytest.raises(UserError) as caught:
        load_checkpoint(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not os.path.exists("/tmp/nerf_dfa_was_here")


def sgd(contents, momentum):
    model = nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=momentum)
    model(torch.ones(1)).sum().backward()
    optimizer.step()
    contents["optimizer_state_dict"] = optimizer.state_dict()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda c: c["optimizer_state_dict"]["param_groups"][0]["params"].pop(), "groups of 1 parameters.* has 2$"),
        (lambda c: c["optimizer_state_dict"]["param_groups"].clear(), "groups of no parameters.* has 2$"),
        (
            lambda c: c["optimizer_state_dict"]["param_groups"].append({"params": [2]}),
            "groups of 2, 1 parameters.* has 2$",
        ),
        (
            lambda c: c["optimizer_state_dict"]["state"][1].update(exp_avg_sq=torch.zeros(3)),
            r"'exp_avg_sq' of parameter 1 is \(3,\), and the parameter \(1,\)$",
        ),
        (lambda c: c["optimizer_state_dict"]["state"][0].pop("step"), r"does not fit Adam \(KeyError: 'step'\)$"),
        (lambda c: c["optimizer_state_dict"].pop("state"), "does not fit Adam"),
        (lambda c: c["optimizer_state_dict"].update(state=5), "does not fit Adam"),
        (lambda c: c.update(optimizer_state_dict=[1]), "does not fit Adam"),
        (lambda c: c.pop("optimizer_state_dict"), "no entry 'optimizer_state_dict'"),
        (lambda c: sgd(c, momentum=0.9), "does not fit Adam"),
        (lambda c: sgd(c, momentum=0.0), "not one of Adam: it has no 'betas'$"),
        (lambda c: c["model_state_dict"].pop("bias"), "another architecture: it has no 'bias'"),
        (lambda c: c.update(global_step="many"), "global_step is 'many'"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_named_in_one_line(tmp_path, spoil, message):
    trainer = make_trainer()
    trainer.run(3)
    path = trainer.save(tmp_path)
    make_trainer().load(path)
    contents = load_checkpoint(path)
    spoil(contents)
    torch.save(contents, path)
    with pytest.raises(UserError, match=rf"^\S+/000003\.tar.*{message}") as caught:
        make_trainer().load(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (nn.Linear(2, 4), r"'weight' is \(4, 2\) there and \(3, 2\) here"),
        (nn.Linear(2, 3, bias=False), "it has no 'bias'"),
        (nn.Bilinear(2, 2, 3), r"'weight' is \(3, 2, 2\)"),
    ],
)
def test_another_architecture_is_named_and_nothing_is_loaded(other, message):
    module = nn.Linear(2, 3)
    before = module.weight.clone()
    with pytest.raises(UserError, match=f"x.tar is of another architecture: {message}"):
        load_weights(module, other.state_dict(), "x.tar")
    assert torch.equal(module.weight, before)
