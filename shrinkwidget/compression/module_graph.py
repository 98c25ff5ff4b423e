"""Which modules a forward pass calls and whose output goes where: traced by torch.fx, or seen while an example runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import Any, Final, TypeAlias

import torch
from torch import Tensor, fx, nn
from torch.overrides import TorchFunctionMode

from ..analysis.run_model_seeded_macs_and_memory import Inputs, run, tensors_in

IsWhole: TypeAlias = Callable[[nn.Module], bool]
"""Tells the modules whose calls matter, and into which nobody looks."""


@dataclass(slots=True)
class ModuleCalls:
    """What is known of a forward pass.

    `names`: the modules that are called, by the name of their first call; `times`: how often. `before`: the module
    whose output is the first argument of another's call, as it is. `outputs_used` and `weights_used`: the modules whose
    output is used by anything besides, or whose parameters and buffers are.
    """

    names: dict[nn.Module, str] = field(default_factory=dict)
    times: Counter[nn.Module] = field(default_factory=Counter)
    before: dict[nn.Module, nn.Module] = field(default_factory=dict)
    outputs_used: set[nn.Module] = field(default_factory=set)
    weights_used: set[nn.Module] = field(default_factory=set)

    def called(self, module: nn.Module, name: str) -> None:
        """Note a call."""
        self.names.setdefault(module, name)
        self.times[module] += 1


def traced(model: nn.Module, is_whole: IsWhole) -> ModuleCalls:
    """Return the calls of every forward pass, whatever the inputs.

    Raises whatever torch.fx raises where they depend on them.
    """

    class Tracer(fx.Tracer):
        def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
            return is_whole(m) or super().is_leaf_module(m, module_qualified_name)

    graph, calls = Tracer().trace(model), ModuleCalls()
    modules: dict[fx.Node, nn.Module] = {}
    for node in graph.nodes:
        if node.op == "call_module":
            modules[node] = model.get_submodule(str(node.target))
            calls.called(modules[node], str(node.target))
            # The first call decides; a module that is called twice is refused by whoever asks (`times`).
            given = node.args[0] if node.args else None
            if isinstance(given, fx.Node) and given in modules:
                calls.before.setdefault(modules[node], modules[given])
        elif node.op == "get_attr":  # a weight that is read, and not by calling the module that has it
            calls.weights_used.add(model.get_submodule(str(node.target).rpartition(".")[0]))
    # one user is whatever comes next; with a second, the output is needed as it is
    calls.outputs_used.update(module for node, module in modules.items() if len(node.users) > 1)
    return calls


_SHAPE_STAYS: Final = frozenset(
    ("relu", "gelu", "silu", "sigmoid", "tanh", "softmax", "log_softmax", "dropout", "contiguous", "float", "add")
)
"""Functions and methods of torch whose result has the channels of what they are given."""
_WITHOUT_WEIGHTS: Final = (nn.Identity, nn.modules.dropout._DropoutNd, nn.modules.batchnorm._BatchNorm)


def output_layers(model: nn.Module) -> set[str]:
    """Return the layers whose output channels are the model's output, by name: no recipe can remove those.

    As far as torch.fx can follow the forward pass without an example; where it cannot, there are none.
    """
    try:
        graph = fx.Tracer().trace(model)
    except Exception:  # noqa: BLE001  # whatever a forward pass does with what is no tensor
        return set()
    found: set[str] = set()
    ahead: list[fx.Node] = [node for end in graph.nodes if end.op == "output" for node in end.all_input_nodes]
    while ahead:
        node = ahead.pop()
        name = str(node.target)
        if node.op == "call_module":
            module = model.get_submodule(name)
            if type(module).__module__ == "torch.nn.modules.activation" or isinstance(module, _WITHOUT_WEIGHTS):
                ahead += node.all_input_nodes
            else:
                found.add(name)
        elif getattr(node.target, "__name__", name) in _SHAPE_STAYS:
            ahead += node.all_input_nodes
    return found


def seen(model: nn.Module, inputs: Inputs, is_whole: IsWhole) -> ModuleCalls:
    """Return the calls of one forward pass, in eval mode.

    Raises:
        DataError: if the model cannot run the inputs.
    """
    watcher = _Watcher(model)
    with ExitStack() as hooks:
        for name, module in model.named_modules():
            if is_whole(module):
                hooks.enter_context(module.register_forward_pre_hook(partial(watcher.enter, name), with_kwargs=True))
                hooks.enter_context(module.register_forward_hook(watcher.leave))
        with torch.no_grad(), watcher:
            output = run(model, *inputs)
    watcher.returned(output)
    return watcher.calls


_METADATA: Final = frozenset(("size", "dim", "numel", "stride", "is_floating_point", "is_contiguous", "__len__"))
"""What a fold leaves as it is: a model may ask an output for it. Attributes such as shape are told by what they are."""


class _Watcher(TorchFunctionMode):
    """Sees every call of torch, and what it is given."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.calls = ModuleCalls()
        self._inside: list[tuple[nn.Module, nn.Module | None]] = []  # what runs, and whose output it was called with
        self._taken: set[int] = set()  # the outputs that a module was called with
        self._made: dict[int, tuple[Tensor, nn.Module]] = {}  # holds the outputs, so that no id comes twice
        self._owner = {
            id(tensor): module
            for module in model.modules()
            for tensor in chain(module.parameters(recurse=False), module.buffers(recurse=False))
        }

    def enter(self, name: str, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Note that a module is called (a forward pre-hook)."""
        self.calls.called(module, name)
        given = next(iter((*args, *kwargs.values())), None)
        _, maker = self._made.get(id(given), (None, None))
        if maker is not None:
            # A second taker of one output: nothing may be folded into its maker, as the other taker needs the output
            # unfolded.
            self.calls.before.setdefault(module, maker)
            if id(given) in self._taken:
                self.calls.outputs_used.add(maker)
            self._taken.add(id(given))
        self._inside.append((module, maker))

    def leave(self, module: nn.Module, _args: tuple[Any, ...], output: object) -> None:
        """Note what a module returned (a forward hook)."""
        self._inside.pop()
        if isinstance(output, Tensor):
            self._made[id(output)] = (output, module)

    def returned(self, output: object) -> None:
        """Note what the whole model returned."""
        self._used(tensors_in(output))

    def __torch_function__(
        self, func: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Note a call, and make it."""
        result = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "")
        # Reading an attribute of a tensor arrives as its descriptor's `__get__`; .T or .data give a tensor, .shape does
        # not.
        if name not in _METADATA and not (name == "__get__" and not isinstance(result, Tensor)):
            self._used(tensors_in((args, kwargs or {})))
        return result

    def _used(self, tensors: Iterable[Tensor]) -> None:
        """Note the use of tensors by anything but the module they belong to, or that was called with them."""
        rightful = self._inside[-1] if self._inside else ()
        for tensor in tensors:
            _, maker = self._made.get(id(tensor), (None, None))
            if maker is not None and maker not in rightful:
                self.calls.outputs_used.add(maker)
            owner = self._owner.get(id(tensor))
            if owner is not None and owner not in rightful:
                self.calls.weights_used.add(owner)
