"""Write models for other runtimes, and compare each file with the reference before it takes its place."""

from convlstm.export.exported import Exported
from convlstm.export.frameworks import to_framework
from convlstm.export.onnx_file import to_onnx
from convlstm.export.options import Physical

__all__ = ["Exported", "Physical", "to_framework", "to_onnx"]
