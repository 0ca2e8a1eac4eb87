"""Measure size and error of narrow weight types in ONNX, for the model of rain in the package.

    python -m benchmarks.export_weights

The errors are differences of probabilities from the float32 file, on frames of the sample in the frame of the grid. The
rows `ONNX Runtime` are its own conversions of an unrolled graph: they compute in the narrow type too.
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxruntime.transformers.float16 import convert_float_to_float16

from convlstm.data import open_frames, sample_path
from convlstm.export import to_onnx
from convlstm.nowcast.models import shipped_model
from convlstm.nowcast.moving_frame import with_known
from convlstm.nowcast.pipeline import Pipeline
from convlstm.weights.checkpoint import load_model

_START = 14  # the strongest rain of the sample


def main() -> None:
    model = load_model(shipped_model())
    pipeline = Pipeline.of_model(model, shipped_model())
    frames = open_frames(sample_path()).read(np.arange(_START, _START + pipeline.input_length))
    values = with_known(pipeline.transform.forward(frames))[None]
    folder = Path(tempfile.mkdtemp())
    fixed = {"form": "unrolled", "steps": pipeline.input_length, "horizon": pipeline.horizon, "probability": True}
    files = {}
    for kind in ("float32", "float16", "int8"):
        files[f"--weights {kind}"] = folder / f"{kind}.onnx"
        to_onnx(files[f"--weights {kind}"], model.spec, model.weights, weight_type=kind, **fixed)
    plain = files["--weights float32"]
    files["ONNX Runtime, float16"] = folder / "ort16.onnx"
    onnx.save(convert_float_to_float16(onnx.load(plain), keep_io_types=True), files["ONNX Runtime, float16"])
    files["ONNX Runtime, dynamic int8"] = folder / "ort8.onnx"
    quantize_dynamic(plain, files["ONNX Runtime, dynamic int8"], weight_type=QuantType.QUInt8)
    exact = None
    for name, path in files.items():
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads, settings.log_severity_level = 1, 3
        session = onnxruntime.InferenceSession(path, settings, providers=["CPUExecutionProvider"])
        start = time.process_time()
        (result,) = session.run(["forecast"], {"frames": values})
        seconds = time.process_time() - start
        exact = result if exact is None else exact
        difference = np.abs(result - exact)
        print(
            f"| {name} | {os.path.getsize(path) / 1e6:.2f} | {difference.max():.1e} | {difference.mean():.1e} "
            f"| {seconds:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
