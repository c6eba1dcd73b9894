"""Existing models in one line: feedback points put into a network that was written without a learning rule.

    convert(model, "dfa")                                            # an nn.Sequential, after its non-linearities
    convert(model, "dfa", ["encoder.act", "act2"], example=batch)    # any nn.Module, after the modules named
    revert(model)                                                    # loss.backward() in between, as ever

Forward hooks do what a network written for a rule does itself (rules.py). Without gradients they do nothing, nor at a
point called outside a forward pass of the model. Parameters keep their names; the rule is a child of the model, `rule`,
of an nn.Sequential the last one, which passes on what it reads. A converted model can be copied, pickled and (but under
fdfa) compiled; one thread at a time runs it (DistributedDataParallel, not DataParallel).
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import activation
from torch.utils.hooks import RemovableHandle

from nerf_dfa.learning.rules import RULES, Rule, Shallow, make_rule
from nerf_dfa.learning.sequential import KINDS
from nerf_dfa.learning.tapes import Tape

ACTIVATIONS = tuple(getattr(activation, name) for name in activation.__all__ if name != "MultiheadAttention")


@dataclass(frozen=True)
class Converted:
    """What a conversion found and did.

    points: width of each feedback point, in the order of a pass; "act:2" is the second call of "act".
    output, output_width: the module whose output's gradient is the error ("": the model), and its width.
    learns: what each parameter learns from: "exact gradient", "feedback", "both" (some path meets no point), "nothing".
    replaced: the linear layers that others with their weights stand in for; all that is known for fa and its kin.
    """

    rule: str
    points: dict[str, int] = field(default_factory=dict)
    output: str = ""
    output_width: int | None = None
    learns: dict[str, str] = field(default_factory=dict)
    replaced: dict[str, nn.Module] = field(default_factory=dict, repr=False, compare=False)
    _handles: tuple[RemovableHandle, ...] = field(default=(), repr=False, compare=False)

    def __str__(self) -> str:
        if not self.points:
            return f"{self.rule}: a backward pass of its own in {', '.join(self.replaced)}"
        place = f"'{self.output}'" if self.output else "the model's output"
        lines = [f"{self.rule}: feedback points {len(self.points)}, error at {place}, {self.output_width} wide"]
        lines += [f"  {name}: {width} wide" for name, width in self.points.items()]
        for how in dict.fromkeys(self.learns.values()):
            lines.append(f"learning from {how}: {', '.join(n for n, found in self.learns.items() if found == how)}")
        return "\n".join(lines)


def convert(
    model: nn.Module,
    rule: str = "dfa",
    points: Sequence[str] | None = None,
    *,
    example: Any = None,
    output: str | None = None,
    **rule_options: Any,
) -> Converted:
    """Makes the model learn by a rule, in place; make its optimiser afterwards, as some rules bring parameters.

    points: names of modules, as in `named_modules`, whose outputs (..., width) are feedback points. None: an
    nn.Sequential's non-linearities below its output, nested ones too.
    example: an input (a tuple: positional, a dict: keyword arguments) that the model is run on once, in eval mode, to
    find widths and order of the points. None: rows of zeros, for an nn.Sequential that begins with a Linear.
    output: name of the module whose output (..., c) is the network's, before its last activation. None: an
    nn.Sequential's last layer with weights, so that a Softmax above it is left out; otherwise the model's output.
    rule_options: those of `make_rule`. The kinds of sequential.py only replace linear layers, which get `back` or
    `magnitude` beside the weight; points, example and output are not read.

    Raises ValueError or TypeError, and leaves the model as it was: for an unknown rule or name, no non-linearity, a
    rule there already, a point that is not called before the output, is no floating-point tensor, has not the output's
    leading dimensions or is overwritten by a later module. Every later pass is checked for these, and for the order.
    """
    if rule not in RULES:
        raise ValueError(f"unknown learning rule '{rule}'; there are {', '.join(RULES)}")
    rules = [name for name, module in model.named_modules() if isinstance(module, Rule)]
    if rules or hasattr(model, "rule"):
        raise ValueError(f"{type(model).__name__} has '{(rules or ['rule'])[0]}' already; revert(model) undoes convert")
    if rule in KINDS:  # which read no widths
        model._converted = Converted(rule, replaced=_install(model, make_rule(rule, 1, [1], **rule_options)))
        return model._converted

    names, output = _choose(model, points, output)
    watch = _Watch(names)
    handles = watch.register(model, output)
    model.rule = Shallow()  # while the example runs: it cuts at every point
    try:
        hidden, y = _trace(model, watch, example)
    finally:
        _uninstall(model, handles, {})
    parameters = dict(model.named_parameters())
    if not y.requires_grad and all(p.requires_grad for p in parameters.values()):
        raise ValueError(f"no weights between feedback point '{[*hidden][-1]}' and the output; leave this point out")
    widths = {call: h.shape[-1] for call, h in hidden.items()}
    made = make_rule(rule, y.shape[-1], list(widths.values()), **rule_options)
    dtype = next((p.dtype for p in parameters.values() if p.is_floating_point()), y.dtype)
    replaced = _install(model, made.to(y.device, dtype))
    above, below = _reached([y]), _reached(hidden.values())
    learns = {name: _learns(rule, id(p) in above, id(p) in below) for name, p in parameters.items() if p.requires_grad}
    handles = watch.register(model, output)  # anew: a module that has been replaced took its hooks along
    model._converted = Converted(rule, widths, output, y.shape[-1], learns, replaced, handles)
    return model._converted


def revert(model: nn.Module) -> None:
    """Undoes `convert`: no hook, no rule; weights stay, under their names. ValueError if it is not converted."""
    if not hasattr(model, "_converted"):
        raise ValueError(f"this {type(model).__name__} is not converted")
    _uninstall(model, model._converted._handles, model._converted.replaced)
    del model._converted


def _install(model: nn.Module, rule: Rule) -> dict[str, nn.Module]:
    """Makes it the model's rule; the modules that it has replaced by others, by name."""
    before = dict(model.named_modules(remove_duplicate=False))
    model.rule = rule.prepare(model).train(model.training)
    return {name: module for name, module in before.items() if model.get_submodule(name) is not module}


def _uninstall(model: nn.Module, handles: Sequence[RemovableHandle], replaced: dict[str, nn.Module]) -> None:
    for handle in handles:
        handle.remove()
    for name, linear in replaced.items():
        now = model.get_submodule(name)
        for own, found in ((linear._parameters, now._parameters), (linear._buffers, now._buffers)):
            own.update({key: found[key] for key in own})
        model.set_submodule(name, linear.train(now.training))
    del model.rule


def _stages(model: nn.Module, prefix: str = "") -> list[tuple[str, nn.Module]]:
    """The modules that an nn.Sequential runs one after the other, with nested ones opened; [] for other modules."""
    if not isinstance(model, nn.Sequential) or type(model).forward is not nn.Sequential.forward:
        return []
    parts = [(f"{prefix}{name}", child) for name, child in model._modules.items()]
    return [stage for name, child in parts for stage in _stages(child, f"{name}.") or [(name, child)]]


def _weighted(module: nn.Module) -> bool:
    return not isinstance(module, ACTIVATIONS) and next(module.parameters(), None) is not None


def _choose(model: nn.Module, points: Sequence[str] | None, output: str | None) -> tuple[list[str], str]:
    """Names of the feedback points and of the output, checked against the model."""
    modules = dict(model.named_modules(remove_duplicate=False))
    kind, stages = type(model).__name__, _stages(model)
    for name in [*(points or ()), output or ""]:
        if name not in modules:
            close = [repr(known) for known in difflib.get_close_matches(name, modules, cutoff=0.4)]
            raise ValueError(f"{kind} has no module '{name}'; did you mean {' or '.join(close or map(repr, modules))}?")
    last = max((i for i, (_, module) in enumerate(stages) if _weighted(module)), default=0)
    output = output if output is not None else stages[last][0] if stages else ""
    if points is None:
        if not stages:
            known = [name for name, module in modules.items() if isinstance(module, ACTIVATIONS)]
            raise ValueError(f"{kind} is no nn.Sequential: name its feedback points, for instance points={known[:8]}")
        # A module that stands in several places goes by the name of the first.
        first = {module: name for name, module in reversed(stages[:last]) if isinstance(module, ACTIVATIONS)}
        points = [name for name, _ in stages if name in first.values()]
        if not points:
            raise ValueError(f"{kind} has no non-linearity of torch.nn below its last layer; name points")
    if not points or len({modules[name] for name in [*points, output]}) <= len(points):
        raise ValueError(f"points = {list(points)} have to name at least one module, none twice, nor the output")
    return list(points), output


def _trace(model: nn.Module, watch: _Watch, example: Any) -> tuple[dict[str, Tensor], Tensor]:
    """One pass in eval mode: what the points and the output give. The watch expects these calls from then on."""
    hint = ""
    if example is None:
        first = next((module for _, module in _stages(model) if _weighted(module)), None)
        if not isinstance(first, nn.Linear) or not first.in_features:
            raise ValueError(f"the widths in this {type(model).__name__} are not known before it runs; give example=")
        example, hint = first.weight.detach().new_zeros(2, first.in_features), "; give example="
    args, keywords = ((), example) if isinstance(example, dict) else (example, {})
    training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.enable_grad():
            model(*(args if isinstance(args, tuple) else (args,)), **keywords)
    except RuntimeError as error:
        raise ValueError(f"{type(model).__name__} does not run on the example{hint}: {error}") from error
    finally:
        for module, mode in training.items():
            module.training = mode
    hidden, y = {call: h for call, (h, _) in watch.hidden.items()}, watch.y
    watch.expected = tuple(hidden)
    watch.clear()
    return hidden, y


def _reached(tensors: Iterable[Tensor]) -> set[int]:
    """ids of the parameters that the tensors' graphs lead to."""
    nodes, todo = set(), [t.grad_fn for t in tensors]
    while todo:
        node = todo.pop()
        if node is not None and node not in nodes:
            nodes.add(node)
            todo += [below for below, _ in node.next_functions]
    return {id(node.variable) for node in nodes if hasattr(node, "variable")}


def _learns(rule: str, above: bool, below: bool) -> str:
    """What a parameter learns from that reaches the output without a point (above) or reaches a point (below)."""
    if rule == "bp" or not below:
        return "exact gradient" if above or below else "nothing"
    return "both" if above else "nothing" if rule == "shallow" else "feedback"


class _Watch:
    """The hooks of one model, and the pass that it is in. expected: the calls in a pass; None: not known yet."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self.expected: tuple[str, ...] | None = None
        self.clear()

    def clear(self) -> None:
        self.tape: Tape | None = None  # None: no pass is under way, or one without gradients
        self.calls: Counter[str] = Counter()
        self.hidden: dict[str, tuple[Tensor, int]] = {}  # what the points gave, and its version
        self.y: Tensor | None = None

    def register(self, model: nn.Module, output: str) -> tuple[RemovableHandle, ...]:
        return (
            model.register_forward_pre_hook(self.begin),
            *(model.get_submodule(name).register_forward_hook(partial(self.point, name)) for name in self.names),
            model.get_submodule(output).register_forward_hook(partial(self.output, output)),
            model.register_forward_hook(self.end),
            model.register_forward_hook(self.close, always_call=True),  # also after an error
        )

    def begin(self, model: nn.Module, args: Any) -> None:
        self.clear()
        if torch.is_grad_enabled():
            self.tape = model.rule.tape()

    def point(self, name: str, module: nn.Module, args: Any, h: Any) -> Tensor | None:
        if self.tape is None or self.y is not None:
            return None
        self.calls[name] += 1
        call = name if self.calls[name] == 1 else f"{name}:{self.calls[name]}"
        _check_tensor(f"feedback point '{call}' ({type(module).__name__})", h)
        if self.expected is not None and call not in self.expected[len(self.hidden) : len(self.hidden) + 1]:
            raise ValueError(f"feedback point '{call}' is out of order; a pass has {', '.join(self.expected)}")
        self.hidden[call] = (h, h._version)
        return self.tape.hidden(h)

    def output(self, name: str, module: nn.Module, args: Any, y: Any) -> Tensor | None:
        if self.tape is None:
            return None
        what = f"the output '{name}'" if name else "the model's output"
        if self.y is not None:
            raise ValueError(f"{what} came twice in one pass")
        _check_tensor(f"{what} ({type(module).__name__})", y)
        for call in self.expected or self.names:
            if call not in self.hidden:
                raise ValueError(f"feedback point '{call}' was not called before {what}")
        for call, (h, version) in self.hidden.items():
            if not torch.compiler.is_compiling() and h._version != version:
                raise ValueError(f"feedback point '{call}' was overwritten by a later module: set its inplace=False")
            if h.shape[:-1] != y.shape[:-1]:
                raise ValueError(
                    f"feedback point '{call}' gives {tuple(h.shape)} and {what} {tuple(y.shape)}: a point has to be "
                    "(..., width) with the output's leading dimensions, a row for each row of the error. Convolutional "
                    "feature maps (N, C, H, W) have none: name points after they are flattened or pooled"
                )
        self.y = y
        return self.tape.output(y)

    def end(self, model: nn.Module, args: Any, result: Any) -> None:
        if torch.is_grad_enabled() and self.tape is None:
            raise RuntimeError(f"{type(model).__name__} was called inside its own forward pass")
        if self.tape is not None and self.y is None:
            raise ValueError("the pass ended without a call of the module that is the output")

    def close(self, model: nn.Module, args: Any, result: Any) -> None:
        self.tape = None
        if self.expected is not None:
            self.clear()


def _check_tensor(what: str, value: Any) -> None:
    if not isinstance(value, Tensor) or not value.is_floating_point() or not value.dim():
        found = f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
        raise TypeError(f"{what} gives {found}; it has to be a floating-point tensor (..., width)")
