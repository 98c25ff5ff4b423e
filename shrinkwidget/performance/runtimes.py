"""The runtimes that can be raced: PyTorch for modules, others for the files that were exported for them.

One is a `Runtime` subclass: what its files end in, which package it needs, and how a file becomes a function. Nothing
but the runtime that is asked for is imported, or the memory of a process would hold two.
"""

from __future__ import annotations

import io
import pickle
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any, ClassVar, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError, MissingPackageError

Inputs: TypeAlias = tuple[tuple[Any, ...], dict[str, Any]]
Forward: TypeAlias = Callable[[], Any]
"""Runs a model once, on inputs it was bound to."""
Bind: TypeAlias = Callable[[Inputs], Forward]
Array: TypeAlias = NDArray[Any]


class Runtime(ABC):
    """Loads a model on a fixed number of threads, and binds it to inputs."""

    name: ClassVar[str]
    ending: ClassVar[str]
    """What its files end in; "" for one that takes modules."""
    package: ClassVar[str]
    """What is imported."""
    extra: ClassVar[str] = ""
    """The extra that installs it; "" where there is none."""

    @abstractmethod
    def load(self, source: Any, threads: int) -> Bind:
        """Return what binds inputs to a model, which is loaded now, from the path of a file."""

    def arrays(self, outputs: Any) -> list[Array]:
        """Return what a run gave as arrays."""
        return [np.asarray(output) for output in outputs]

    @classmethod
    def version(cls) -> str:
        """Return the installed version.

        Raises:
            MissingPackageError: if there is none; it names the extra.
        """
        if find_spec(cls.package) is None:
            what = f'"shrinkwidget[{cls.extra}]"' if cls.extra else cls.package
            raise MissingPackageError(f"runtime {cls.name!r} needs {cls.package}: pip install {what}")
        try:
            return version(cls.package)
        except PackageNotFoundError:  # found on a path, without its metadata
            return str(getattr(import_module(cls.package), "__version__", "of unknown version"))


class TorchRuntime(Runtime):
    """PyTorch itself: `source` is a module's pickle, or an exported program in bytes."""

    name, ending, package = "torch", "", "torch"

    def load(self, source: tuple[str, bytes], threads: int) -> Bind:
        """Load it."""
        import torch

        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        how, data = source
        stream = io.BytesIO(data)  # either was written by the process that started this one
        module: Any = torch.export.load(stream).module() if how == "exported" else pickle.load(stream).eval()  # noqa: S301
        return lambda inputs: lambda: module(*inputs[0], **inputs[1])

    def arrays(self, outputs: Any) -> list[Array]:
        """Return what a run gave as arrays."""
        from ..analysis.run_model_seeded_macs_and_memory import tensors_in

        # through float32: numpy has no bfloat16
        return [t.detach().float().numpy() if t.is_floating_point() else t.numpy() for t in tensors_in(outputs)]


class OnnxRuntime(Runtime):
    """ONNX Runtime, on its CPU provider."""

    name, ending, package, extra = "onnxruntime", ".onnx", "onnxruntime", "onnx"

    def load(self, source: str, threads: int) -> Bind:
        """Load it."""
        ort = import_module("onnxruntime")
        options = ort.SessionOptions()
        # inter_op runs branches of a graph beside each other: one, or `threads` would be exceeded.
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = 3
        session = ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        names = [found.name for found in session.get_inputs()]

        def bind(inputs: Inputs) -> Forward:
            feed = by_name(names, inputs)
            return lambda: session.run(None, feed)

        return bind


class OpenVino(Runtime):
    """OpenVINO on the CPU, computing as the file says: by default it would quantize activations."""

    name, ending, package, extra = "openvino", ".xml", "openvino", "openvino"

    def load(self, source: str, threads: int) -> Bind:
        """Load it."""
        # One stream: several would answer more requests at once, and each of them later.
        settings = {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0}
        compiled = import_module("openvino").Core().compile_model(source, "CPU", settings)
        names = [found.any_name for found in compiled.inputs]
        request = compiled.create_infer_request()

        def bind(inputs: Inputs) -> Forward:
            feed = by_name(names, inputs)
            return lambda: list(request.infer(feed).values())

        return bind


class ExecuTorch(Runtime):
    """ExecuTorch, with XNNPACK for what was delegated to it, and its portable operators for the rest."""

    name, ending, package, extra = "executorch", ".pte", "executorch", "executorch"

    def load(self, source: str, threads: int) -> Bind:
        """Load it."""
        import torch

        library = import_module("executorch.extension.pybindings.portable_lib")
        library._unsafe_reset_threadpool(threads)
        module = library._load_for_executorch(source)
        about = module.method_meta("forward")
        most = [about.input_tensor_meta(i).sizes() for i in range(about.num_inputs())]

        def bind(inputs: Inputs) -> Forward:
            given = [torch.from_numpy(np.ascontiguousarray(value)) for value in (*inputs[0], *inputs[1].values())]
            for tensor, sizes in zip(given, most, strict=False):
                if sizes and len(tensor) > sizes[0]:
                    raise DataError(
                        f"the file takes up to {sizes[0]} rows, and this batch has {len(tensor)}: export it with "
                        f"max_batch={len(tensor)}"
                    )
            return lambda: module.forward(given)

        return bind


RUNTIMES: Final[Mapping[str, type[Runtime]]] = {
    kind.name: kind for kind in (TorchRuntime, OnnxRuntime, OpenVino, ExecuTorch)
}


def by_name(names: Sequence[str], inputs: Inputs) -> dict[str, Array]:
    """Return inputs under a graph's names: positional ones in its order, keywords under their own.

    Raises:
        DataError: for more inputs than it has, or a name it has not.
    """
    args, kwargs = inputs
    free = [name for name in names if name not in kwargs]
    if len(args) > len(free) or not set(kwargs) <= set(names):
        given = ", ".join([f"{len(args)} positional", *kwargs])
        raise DataError(f"the file takes {', '.join(names)}, and the inputs are {given}")
    return dict(zip(free, args, strict=False)) | kwargs
