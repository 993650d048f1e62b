"""An ONNX graph whose weights take 8 bits in the file; it computes in 32 bits, as fast as before.

ONNX Runtime turns them back when it loads the file.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from facenet2expnet.nets.storage import SCALE, as_int8


def compact(graph: bytes) -> bytes:
    """Store the weights of convolutions and linear layers in 8 bits, as `nets.storage.as_int8` does.

    Args:
        graph: float32.
    Returns:
        The graph with the weights as int8, their scales, and two operators that multiply them.
    """
    import onnx
    from onnx import numpy_helper

    made = onnx.load_from_string(graph)
    before = []
    for weights, axis in list(_weights(made.graph)):
        values = numpy_helper.to_array(weights)
        found = as_int8({"weight": torch.from_numpy(np.moveaxis(values, axis, 0).copy())})
        if f"weight{SCALE}" not in found:
            continue
        rounded, name = np.ascontiguousarray(np.moveaxis(found["weight"].numpy(), 0, axis)), weights.name
        scales = found[f"weight{SCALE}"].numpy().reshape([-1 if n == axis else 1 for n in range(values.ndim)])
        made.graph.initializer.remove(weights)
        kept: dict[str, np.ndarray] = {f"{name}.int8": rounded, f"{name}.scale": scales}
        made.graph.initializer.extend(numpy_helper.from_array(array, own) for own, array in kept.items())
        before.append(onnx.helper.make_node("Cast", [f"{name}.int8"], [f"{name}.float"], to=onnx.TensorProto.FLOAT))
        before.append(onnx.helper.make_node("Mul", [f"{name}.float", f"{name}.scale"], [name]))
    nodes = [*before, *made.graph.node]
    del made.graph.node[:]
    made.graph.node.extend(nodes)
    onnx.checker.check_model(made)
    return bytes(made.SerializeToString())


def share_weights(graph: bytes, weights: Path) -> bytes:
    """Take the int8 weights of a compact graph from a safetensors file beside it, instead of storing them twice.

    Args:
        graph: of `compact`.
        weights: the file that `save_model(int8=True)` wrote of the same model; the ONNX file has to lie beside it.
    Raises:
        ValueError: If the file lacks some of the weights.
    """
    import onnx

    made, content = onnx.load_from_string(graph), weights.read_bytes()
    places = {content[start:end]: (start, end - start) for start, end in _int8_tensors(content)}
    for tensor in made.graph.initializer:
        if tensor.data_type != onnx.TensorProto.INT8:
            continue
        if tensor.raw_data not in places:
            raise ValueError(f"{weights}: expected the weights '{tensor.name}' of the graph, which are not in it")
        start, length = places[tensor.raw_data]
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        for key, value in (("location", weights.name), ("offset", start), ("length", length)):
            tensor.external_data.add(key=key, value=str(value))
    return bytes(made.SerializeToString())


def _weights(graph: Any) -> Iterator[tuple[Any, int]]:
    """Yield the weights of convolutions and linear layers, each with the dimension of its output channels."""
    stored = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type not in ("Conv", "Gemm", "MatMul") or node.input[1] not in stored:
            continue
        transposed = any(each.name == "transB" and each.i for each in node.attribute)
        last = node.op_type == "MatMul" or (node.op_type == "Gemm" and not transposed)
        yield stored[node.input[1]], 1 if last else 0


def _int8_tensors(content: bytes) -> Iterator[tuple[int, int]]:
    """Yield the first and the last place of every int8 tensor in a safetensors file."""
    (length,) = struct.unpack("<Q", content[:8])
    for name, about in json.loads(content[8 : 8 + length]).items():
        if name != "__metadata__" and about["dtype"] == "I8":
            start, end = about["data_offsets"]
            yield 8 + length + start, 8 + length + end
