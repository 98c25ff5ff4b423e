"""Files for other runtimes that compute with exactly the weights that were evaluated: one module for each target."""

from . import executorch, gguf, onnx, openvino
from .exporter import Exported, ExportedTensor, Exporter, export_settings, register_exporter
from .write_and_verify import export

__all__ = [
    "Exported",
    "ExportedTensor",
    "Exporter",
    "executorch",
    "export",
    "export_settings",
    "gguf",
    "onnx",
    "openvino",
    "register_exporter",
]
