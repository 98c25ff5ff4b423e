"""Files for other runtimes that compute with exactly the weights that were evaluated: one module for each target."""

from . import onnx
from .export import export
from .exporter import Exported, ExportedTensor, Exporter, export_settings, register_exporter

__all__ = ["Exported", "ExportedTensor", "Exporter", "export", "export_settings", "onnx", "register_exporter"]
