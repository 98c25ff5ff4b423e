"""Keep a compressed model compressed in a training loop that is not ours: a plain one, Hugging Face's, Lightning's."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from ..analysis.open_model_tensors_and_channel_axes import copied, fill, open_model
from ..argument_checks import public
from ..compressed_model import CompressedModel, compress_trained
from ..errors import ModelError, TrainingError, a_type
from .methods_schedule_options_and_progress import quantizes
from .retrain_and_training_run import lock_model, unlock_model
from .training_loop_losses_and_weight_constraints import WeightConstraints, masks_of


@public()
def constrain(small: CompressedModel) -> ConstrainedTraining:
    """Keep a compressed model compressed while a loop of your own trains it.

    Inside the context pruned weights stay zero and rounded layers are trained through their grid, whatever moves the
    weights: any `torch.optim.Optimizer`, made before or after, with weight decay, momentum, several parameter groups,
    gradient clipping or mixed precision; the model may be compiled or wrapped. At every moment but during the
    optimizer's step, the model computes with the very weights its file would hold.

    Args:
        small: what `compress`, `load(…, into=model)` or `retrain` returned. Its module is trained in place, since that
            is what your loop does; its file stays what it was, and so does the model it was made of.

    Returns:
        A context manager. Train its `model`; then `compressed()` returns the result, also after an interrupted loop.

    Raises:
        ModelError: for what is not compressed, or holds only weights and no module.

    Example:
        >>> import torch, shrinkwidget as sw
        >>> small = sw.compress(sw.demo.model(), sw.Recipe(sparsity=0.9, bits=4))
        >>> images, labels = sw.demo.data("train")
        >>> with sw.constrain(small) as training:
        ...     optimizer = torch.optim.AdamW(training.model.parameters(), lr=0.001)
        ...     for x, y in zip(images.split(64), labels.split(64)):
        ...         loss = torch.nn.functional.cross_entropy(training.model(x), y)
        ...         optimizer.zero_grad()
        ...         loss.backward()
        ...         optimizer.step()
        >>> training.compressed().nbytes == small.nbytes
        True
    """
    return ConstrainedTraining(small)


class ConstrainedTraining:
    """A compressed model in a training loop of the user's own; made by `constrain`.

    Pruned weights: their gradients are zeroed as soon as they are there, so that clipping does not count them, and
    after every step the weights themselves and the optimizer's state are.

    Rounded weights: between steps the module holds what its file would, so that forward passes, evaluations and
    checkpoints see that; for a step it gets back the weights that are trained (`WeightConstraints.effective`).

    Example:
        >>> import torch, shrinkwidget as sw
        >>> small = sw.compress(sw.demo.model(), sparsity=0.9)
        >>> images, labels = sw.demo.few(per_class=5)
        >>> with sw.constrain(small) as training:
        ...     optimizer = torch.optim.SGD(training.model.parameters(), lr=0.01)
        ...     torch.nn.functional.cross_entropy(training.model(images), labels).backward()
        ...     optimizer.step()
        >>> training.steps
        1
    """

    def __init__(self, small: CompressedModel) -> None:
        if not isinstance(small, CompressedModel):
            raise ModelError(
                f"cannot constrain {a_type(small)}: give what compress, load or retrain returned, "
                f"whose masks are to hold"
            )
        if small.model is None:
            raise ModelError("there is no model to train, only weights: load the file with load(path, into=model)")
        self.model: nn.Module = small.model
        self.steps = 0
        self._source = small
        self._trained = copied(self.model)  # what results are made of: loops wrap modules and hang things on them
        self._parameters = dict(self.model.named_parameters())
        self._constraints(self._trained)
        self._held: WeightConstraints | None = None
        self._latent: list[Tensor] | None = None  # None while the module itself has them
        self._versions: list[int] = []
        self._stepping: Optimizer | None = None
        self._keeps: dict[int, Tensor] = {}
        self._hooked: set[int] = set()
        self._hooks = ExitStack()
        self._changed = False

    # as a context

    def __enter__(self) -> ConstrainedTraining:
        # Hooks on the step of every optimizer there is, since the user's may be made later, or wrapped. What is done is
        # undone in the opposite order, also if something fails on the way: hooks first, the claim to the model last.
        with ExitStack() as undo:
            lock_model(self.model)
            undo.callback(unlock_model, self.model)
            self.start()
            undo.callback(self.finish)
            undo.callback(register_optimizer_step_pre_hook(self._on_step).remove)
            undo.callback(register_optimizer_step_post_hook(self._on_stepped).remove)
            undo.callback(self._hooked.clear)
            self._hooks = undo.pop_all()
        self._hook_gradients()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._hooks.close()

    def _on_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> tuple[Any, Any] | None:
        """Prepare a step of any optimizer; one that runs the model itself, by a closure, gets ours around it."""
        if not self._trains(optimizer):
            return None
        self._hook_gradients()
        self.before_step(optimizer)
        if len(args) > 1 and callable(args[1]):  # the first is the optimizer
            return (args[0], partial(self._run, args[1]), *args[2:]), kwargs
        if callable(kwargs.get("closure")):
            return args, {**kwargs, "closure": partial(self._run, kwargs["closure"])}
        return None

    def _on_stepped(self, optimizer: Optimizer, _args: Any, _kwargs: Any) -> None:
        if self._trains(optimizer):
            self.after_step(optimizer)

    def _trains(self, optimizer: Optimizer) -> bool:
        """Tell whether an optimizer has any of the model's parameters: the hooks are called for all there are."""
        # By identity: comparing tensors with == would compare their values.
        ours = set(map(id, self._parameters.values()))
        return any(id(parameter) in ours for group in optimizer.param_groups for parameter in group["params"])

    def _run(self, closure: Callable[[], Any]) -> Any:
        """Run a closure, forward and backward, with the weights of the file."""
        held = self._constraint  # within a step the module has the weights that are trained
        with held.effective():
            loss = closure()
        held.straight_through()
        return loss

    def _hook_gradients(self) -> None:
        """Zero gradients of pruned weights as they come, also those of layers that are unfrozen meanwhile."""
        for parameter, keep in self._constraint.masked:
            self._keeps[id(parameter)] = keep
            if parameter.requires_grad and id(parameter) not in self._hooked:  # torch refuses hooks on frozen ones
                self._hooked.add(id(parameter))
                handle: Any = parameter.register_post_accumulate_grad_hook(self._mask_gradient)  # type: ignore[no-untyped-call]
                self._hooks.callback(handle.remove)

    def _mask_gradient(self, parameter: Tensor) -> None:
        """Zero the gradient of pruned weights, be it NaN or infinite there."""
        gradient, keep = parameter.grad, self._keeps[id(parameter)]
        if gradient is None:
            return
        if keep.device != gradient.device:  # the model was moved after the context began
            self._keeps[id(parameter)] = keep = keep.to(gradient.device)
        if gradient.is_sparse:  # of an embedding, whose rows are listed
            parameter.grad = gradient = gradient.coalesce()
            gradient.values().masked_fill_(~keep[gradient.indices()[0]], 0)
        else:
            gradient.masked_fill_(~keep, 0)

    # step by step, for loops that call back

    def start(self) -> None:
        """Begin to hold the model to its recipe."""
        self._refuse_replaced()
        self._stepping = None
        self._held = self._constraints(self.model)
        self._to_effective()

    def before_step(self, optimizer: Optimizer) -> None:
        """Give the module the weights that are trained, and gradients of theirs, for a step of an optimizer."""
        if self._stepping is not None and self._stepping is not optimizer:
            return  # within the step of another, as in Lookahead
        self._stepping = optimizer
        self._to_latent()
        self._constraint.straight_through()

    def after_step(self, optimizer: Optimizer) -> None:
        """Put pruned weights and the optimizer's state of them back to zero, and round what is rounded."""
        self._constraint.hold(optimizer)  # of an optimizer within another, too: each has a memory of its own
        if self._stepping is optimizer:
            self._stepping = None
            self.steps += 1
            self._to_effective()

    def finish(self) -> None:
        """Let go of the model, which keeps the weights of its file."""
        try:
            self._take()
        finally:
            self._held = self._latent = self._stepping = None

    def compressed(self) -> CompressedModel:
        """Return the model as it has been trained so far, compressed, as a new module.

        Raises:
            TrainingError: if nothing has trained the model, or if its parameters were replaced by others.
            ModelError: for weights that are NaN or infinite.

        Example:
            >>> import torch, shrinkwidget as sw
            >>> images, labels = sw.demo.few(per_class=5)
            >>> with sw.constrain(sw.compress(sw.demo.model(), sparsity=0.9)) as training:
            ...     optimizer = torch.optim.SGD(training.model.parameters(), lr=0.01)
            ...     torch.nn.functional.cross_entropy(training.model(images), labels).backward()
            ...     optimizer.step()
            >>> small = training.compressed()
            >>> small.recipe.sparsity, small.provenance
            (0.9, 'trained 1 step in a custom loop')
        """
        if self._held is not None:
            self._take()
        self._refuse_replaced()
        if not self._changed and not self.steps:
            raise TrainingError(
                f"nothing has trained this {type(self.model).__name__}: train the module that constrain(…).model is, "
                f"not a copy of it"
            )
        recipe, before = self._source.recipe, self._source.provenance
        steps = f" {self.steps:,} step{'' if self.steps == 1 else 's'}" if self.steps else ""
        provenance = f"trained{steps} in a custom loop" + (", quantization-aware" if quantizes(recipe) else "")
        return replace(
            compress_trained(self._trained, recipe).with_widths(self._source.narrowed),
            provenance=provenance if before == "no retraining" else f"{before}, then {provenance}",
        )

    # the weights

    @property
    def _constraint(self) -> WeightConstraints:
        if self._held is None:
            raise TrainingError("the training is over: use constrain(…) as a context around its loop")
        return self._held

    def _constraints(self, network: nn.Module) -> WeightConstraints:
        weights = open_model(network)
        return WeightConstraints(network, weights, self._source.recipe, masks_of(self._source, weights))

    def _to_effective(self) -> None:
        held = self._constraint
        self._latent = held.to_effective()
        self._versions = [parameter._version for parameter in held.rounded]

    def _to_latent(self) -> None:
        """Give the module the weights that are trained, but those that somebody else has written meanwhile."""
        held, latent, self._latent = self._constraint, self._latent, None
        if held.moved:  # to another device or dtype
            self._held = held = self._constraints(self.model)
            written = {}
        else:
            # torch counts what is written to a tensor: a count that has moved means that these weights are news.
            pairs = enumerate(zip(held.rounded, self._versions, strict=True))
            written = {i: p.detach().clone() for i, (p, version) in pairs if latent and p._version != version}
        if latent is None:
            return
        held.to_latent(latent)
        if written:  # from a checkpoint, or it is what an average for a test has put back
            latent = held.to_effective()
            for i, found in written.items():
                # What is just the rounded weights again, as after an average was swapped in for a test, is no news:
                # taken for it, it would throw away what was trained between two levels of the grid.
                if not torch.equal(held.rounded[i], found):
                    latent[i] = found
            held.to_latent(latent)

    def _take(self) -> None:
        """Write the weights that are trained into the model that results are made of."""
        if self._replaced():
            return
        self._to_latent()
        for pruned, keep in self._constraint.masked:  # masks leave -0.0, loops by hand leave anything
            pruned.data.masked_fill_(~keep, 0)
        before = dict(self._trained.named_parameters())
        self._changed = self._changed or any(
            not torch.equal(before[name], parameter.to(before[name])) for name, parameter in self._parameters.items()
        )
        fill(self._trained, [*self._parameters.items(), *self.model.named_buffers()])
        self._constraints(self._trained)  # which settles them: survivors are not zero, codebooks what they are
        self._to_effective()

    def _replaced(self) -> str:
        """Return the name of a parameter that is no longer that of the module, "" if all are."""
        now = dict(self.model.named_parameters())
        return next((name for name, parameter in self._parameters.items() if now.get(name) is not parameter), "")

    def _refuse_replaced(self) -> None:
        if name := self._replaced():
            raise TrainingError(
                f"the parameter {name!r} of this {type(self.model).__name__} was replaced by another one, which is not "
                f"constrained: replace parameters (FSDP, LoRA, load_state_dict(assign=True)) first, then compress"
            )
