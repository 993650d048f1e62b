"""Fewer bits a number: an ONNX graph in int8 or float16."""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from facenet2expnet.predict.onnx_model import INPUT

INT8_OPERATORS = ("Conv", "Relu", "MaxPool", "Add", "Gemm", "MatMul")
"""What is computed in int8; pixel normalisation and softmax stay in float32."""

FLOAT32_OPERATORS = ("Cast", "Transpose", "Sub", "Div", "Softmax")
"""What stays in float32 in a float16 graph: pixel normalisation and softmax."""

BATCH = 32


def to_int8(graph: bytes, crops: np.ndarray) -> bytes:
    """Quantise a graph to int8: static, QDQ, one scale a channel of the weights.

    Weights take 7 bits of the 8: processors without VNNI instructions add pairs of products in 16 bits, and would
    saturate (ONNX Runtime, "Quantize ONNX models", on reduce_range).

    Args:
        graph: float32, `crops` uint8 -> `probabilities`.
        crops: (N, S, S, 3) uint8 RGB real crops; the range of every layer's numbers is measured on them.
    """
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.calibrate import CalibrationDataReader
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Crops(CalibrationDataReader):
        def __init__(self) -> None:
            self.left = iter(crops[first : first + BATCH] for first in range(0, len(crops), BATCH))

        def get_next(self) -> dict[str, np.ndarray] | None:
            batch = next(self.left, None)
            return None if batch is None else {INPUT: batch}

    with _files(graph) as (given, made), quiet():
        prepared = given.with_name("prepared.onnx")
        quant_pre_process(str(given), str(prepared), skip_symbolic_shape=True)
        quantize_static(
            str(prepared), str(made), Crops(), quant_format=QuantFormat.QDQ, per_channel=True, reduce_range=True,
            op_types_to_quantize=list(INT8_OPERATORS), activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
        )  # fmt: skip
        return made.read_bytes()


def to_float16(graph: bytes) -> bytes:
    """Store and compute a graph in float16; pixels come as uint8 and probabilities leave as float32."""
    import onnx
    from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16

    model = onnx.load_from_string(graph)
    kept = [*DEFAULT_OP_BLOCK_LIST, *FLOAT32_OPERATORS]
    made = convert_float_to_float16(model, keep_io_types=True, op_block_list=kept)
    return bytes(made.SerializeToString())


@contextmanager
def _files(graph: bytes) -> Iterator[tuple[Path, Path]]:
    """A temporary file with a graph, and the name of another one for what is made of it."""
    with tempfile.TemporaryDirectory() as folder:
        given = Path(folder) / "given.onnx"
        given.write_bytes(graph)
        yield given, Path(folder) / "made.onnx"


@contextmanager
def quiet() -> Iterator[None]:
    """Keep exporter and quantiser from logging their progress."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
