"""One forward pass over all batches that waits before each layer, so that a layer can be changed before it runs.

A layer is compressed for the inputs that the compressed layers before it give. Running the network anew for each layer
would take a pass per layer; here every batch runs once, on a thread of its own, and stops where the next layer begins
until all batches have come there. Only one thread ever runs, so results do not depend on how they are scheduled. What
it costs is memory: that of the activations of all batches at one place of the network.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from torch import nn


@dataclass(frozen=True, slots=True, eq=False)
class Call:
    """A module that is about to run, and what it is given."""

    module: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


class _Abandoned(BaseException):
    """Ends a pass that nobody waits for; no `except Exception` of a model stops it."""


def layerwise_forward(
    layers: Mapping[str, nn.Module], runs: Sequence[Callable[[], object]]
) -> Generator[tuple[str, list[Call]], None, None]:
    """Yield every layer before it runs, with its calls by the batches that come to it; the next, once that is resumed.

    Args:
        layers: modules by name, in the order in which they run.
        runs: run the network on a batch each.

    A batch may come to layers in another order, or not to all; it then waits less. Whatever a run raises is raised.
    """
    order = {name: place for place, name in enumerate(layers)}
    passes = [_Pass(run) for run in runs]
    done: set[str] = set()
    running: list[_Pass] = [passes[0]]  # the one whose turn it is: hooks may run on threads of the model's own

    def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], name: str) -> None:
        if name not in done:
            running[0].wait_at(name, Call(module, args, kwargs))

    def advance(one: _Pass) -> None:
        running[0] = one
        one.advance()

    with ExitStack() as ending:
        for name, module in layers.items():
            ending.enter_context(
                module.register_forward_pre_hook(
                    # the name of this very layer, not of the last one
                    lambda m, args, kwargs, name=name: before(m, args, kwargs, name),
                    with_kwargs=True,
                )
            )
        for one in passes:
            ending.callback(one.abandon)
        for one in passes:
            advance(one)
        while waiting := [one for one in passes if one.call is not None]:
            # the first in the network's order: all batches have come there or will wait further on
            name = min((one.layer for one in waiting), key=order.__getitem__)
            here = [one for one in waiting if one.layer == name]
            yield name, [one.call for one in here if one.call is not None]
            done.add(name)
            for one in here:
                advance(one)


class _Pass:
    """A forward pass on a thread of its own, which runs only while `advance` waits for it."""

    def __init__(self, run: Callable[[], object]) -> None:
        self.layer = ""
        self.call: Call | None = None
        """Before which call it waits, None before it has begun and once it is over."""
        self._error: BaseException | None = None
        self._abandoned = False
        # semaphores: one that is released before it is waited for stays released
        self._go, self._stopped = threading.Semaphore(0), threading.Semaphore(0)
        self._thread = threading.Thread(target=self._run, args=(run,), name="shrinkwidget forward", daemon=True)

    def advance(self) -> None:
        """Let it go on until it waits or is over; raises what it raised."""
        self.call = None
        if self._thread.ident is None:
            self._thread.start()
        self._go.release()
        self._stopped.acquire()
        if self._error is not None:
            raise self._error

    def abandon(self) -> None:
        """End it where it is."""
        if self._thread.is_alive():
            self._abandoned = True
            self._go.release()
            self._thread.join()

    def wait_at(self, layer: str, call: Call) -> None:
        """Stop here, on the thread of the pass, until it is to go on."""
        self.layer, self.call = layer, call
        self._stopped.release()
        self._go.acquire()
        if self._abandoned:
            raise _Abandoned

    def _run(self, run: Callable[[], object]) -> None:
        self._go.acquire()
        try:
            run()
        except _Abandoned:
            pass
        except BaseException as error:  # noqa: BLE001  # raised where `advance` waits
            self._error = error
        finally:
            self.call = None
            self._stopped.release()
