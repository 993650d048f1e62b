"""Export a model as one ONNX file, which answers as PyTorch does; that is measured before it is written.

    export("runs/mine", Path("model.onnx"))

The graph takes uint8 crops and gives probabilities: pixel normalisation, the temperature and softmax are inside.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from facenet2expnet import __version__
from facenet2expnet.crop import centre_window
from facenet2expnet.deploy import agreement, quantise
from facenet2expnet.deploy.agreement import Agreement
from facenet2expnet.deploy.faces import Faces, load_faces
from facenet2expnet.deploy.quantise import quiet
from facenet2expnet.errors import UserError
from facenet2expnet.faces.prepare import Progress
from facenet2expnet.files import write_atomic
from facenet2expnet.predict.model_folder import Model, load_model, locate_model
from facenet2expnet.predict.onnx_model import ENDING, FORMAT, INPUT, OUTPUT, load_onnx
from facenet2expnet.predict.scores import class_probabilities

PRECISIONS = ("float32", "float16", "int8")

OPSET = 18
"""Version of the operators; ONNX Runtime since 1.14 and onnxruntime-web run it."""


@dataclass(frozen=True)
class Export:
    """An ONNX file that was written.

    Attributes:
        path: the file.
        precision: one of `PRECISIONS`.
        size: in bytes.
        agreement: how far it is from PyTorch.
        calibrated_on: number of faces that int8 was calibrated on; 0 otherwise.
    """

    path: Path
    precision: str
    size: int
    agreement: Agreement
    calibrated_on: int = 0


def export(
    model: str | Path,
    out: str | Path,
    *,
    precision: str = "float32",
    data: str | Path | None = None,
    max_drop: float = agreement.MAX_DROP,
    progress: Progress | None = None,
) -> Export:
    """Write a model as an ONNX file, if it agrees with PyTorch on real faces.

    A float32 file may differ by `agreement.LARGEST_DIFFERENCE` in a probability. Of a file with fewer bits the
    accuracy may fall by `max_drop` points, and `agreement.MAX_CHANGED` percent of the answers may change; int8 is
    calibrated on some faces and measured on others, of other people where they are known.

    Args:
        model: a model folder, a run folder with one model, or the name of a model of the package.
        out: the file; its name ends in .onnx. An older one is replaced.
        precision: one of `PRECISIONS`.
        data: faces to compare on, best those of the training or others like them: a folder of class folders, a
            manifest or a face store; None for the bundled sample. Labels are matched to the classes by their names.
        max_drop: in points of accuracy, for float16 and int8.
        progress: called with the number of pictures read and of all pictures.
    Raises:
        UserError: If a package is not installed, the model or the data can't be read, the model has a layer that ONNX
            has not, or the two don't agree; nothing is written then.
    """
    out = Path(out)
    if out.suffix.lower() != ENDING:
        raise UserError(f"{out}: expected a name that ends in {ENDING}")
    if precision not in PRECISIONS:
        raise UserError(f"precision is '{precision}', expected one of {', '.join(PRECISIONS)}")
    _require_packages()
    loaded = load_model(locate_model(model))
    faces = load_faces(data, loaded.classes, loaded.contract, progress=progress)
    graph = to_graph(loaded)
    measured = _compare(loaded, graph, faces)
    agreement.check_same(measured)
    calibrated_on = 0
    if precision != "float32":
        graph, measured, calibrated_on = _fewer_bits(loaded, graph, faces, precision)
        agreement.check_close(measured, max_drop, precision)
    record = {"precision": precision, "agreement": measured.to_dict(), "opset": OPSET}
    record |= {"calibrated_on": calibrated_on} if calibrated_on else {}
    content = with_metadata(graph, loaded, record)
    write_atomic(out, content)
    return Export(out, precision, len(content), measured, calibrated_on)


def _require_packages() -> None:
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UserError(f'export needs the package {error.name}; pip install "facenet2expnet[onnx]"') from None


def _fewer_bits(model: Model, graph: bytes, faces: Faces, precision: str) -> tuple[bytes, Agreement, int]:
    """The graph in float16 or int8, how far it is from PyTorch, and the number of faces it was calibrated on."""
    if precision == "float16":
        graph = quantise.to_float16(graph)
        return graph, _compare(model, graph, faces), 0
    calibration, held_out = faces.split()
    graph = quantise.to_int8(graph, _crops(model, calibration))
    return graph, _compare(model, graph, held_out), len(calibration)


def _compare(model: Model, graph: bytes, faces: Faces) -> Agreement:
    """Compare a graph with PyTorch."""
    found = load_onnx(with_metadata(graph, model, {}), "cpu").probabilities(_crops(model, faces))
    expected = class_probabilities(model.module, faces.pixels, model.contract.crop_px)
    return agreement.compare(expected, found, faces.labels, faces.name)


def _crops(model: Model, faces: Faces) -> np.ndarray:
    window = centre_window(faces.pixels.shape[1], model.contract.crop_px)
    return np.ascontiguousarray(faces.pixels[:, window, window])


class _Graph(nn.Module):
    """Crops (N, S, S, 3) uint8 RGB -> probabilities (N, K) float32."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, crops: Tensor) -> Tensor:
        scores: Tensor = self.module(crops.permute(0, 3, 1, 2).float())
        return scores.softmax(dim=1)


def to_graph(model: Model) -> bytes:
    """Translate a model into an ONNX graph of float32, as bytes; the number of crops is free.

    Raises:
        UserError: If the model has a layer that ONNX has not.
    """
    import onnx

    side = model.contract.crop_px
    example = torch.zeros(2, side, side, 3, dtype=torch.uint8)
    module = _Graph(model.module).eval()
    try:
        with quiet():
            made = torch.onnx.export(
                module, (example,), dynamo=True, opset_version=OPSET, input_names=[INPUT], output_names=[OUTPUT],
                dynamic_shapes={INPUT: {0: torch.export.Dim("N")}}, verbose=False,
            )  # fmt: skip
    except (RuntimeError, torch.onnx.errors.OnnxExporterError) as error:
        raise UserError(f"this model can't be exported: {str(error).splitlines()[0]}") from error
    assert made is not None
    graph: Any = onnx.load_from_string(made.model_proto.SerializeToString())
    for part in (graph.graph, *graph.graph.node, *graph.graph.value_info):
        del part.metadata_props[:]  # source lines of this machine
    return bytes(graph.SerializeToString())


def with_metadata(graph: bytes, model: Model, record: dict[str, Any]) -> bytes:
    """Return a graph with everything needed to use it in its metadata, each value as text or JSON.

    The keys are `format`, `classes`, `contract`, `licence`, `origin`, `card` (the model card) and `export`.

    Args:
        record: what is saved as `export`.
    """
    import onnx

    card = model.metadata
    trained_on = card.get("trained_on", {}).get("manifest", "unknown data")
    method = card.get("method", "model")
    made = onnx.load_from_string(graph)
    made.producer_name, made.producer_version = "facenet2expnet", __version__
    made.doc_string = f"{INPUT}: uint8 RGB faces (N, H, W, 3); {OUTPUT}: one per class of the metadata key 'classes'"
    values = {
        "format": FORMAT,
        "classes": json.dumps(model.classes, ensure_ascii=False),
        "contract": json.dumps(model.contract.to_dict()),
        "licence": str(card.get("licence", "not stated")),
        "origin": str(card.get("origin", f"{method} of facenet2expnet, trained on {trained_on}")),
        "card": json.dumps(card, ensure_ascii=False),
        "export": json.dumps(record),
    }
    onnx.helper.set_model_props(made, values)
    return bytes(made.SerializeToString())
