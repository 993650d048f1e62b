"""A model of ours, by PyTorch, or the model.onnx of its folder by ONNX Runtime; each picture is a cut-out face."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import protocol

from facenet2expnet.crop import CropContract
from facenet2expnet.faces.prepare import whole_picture


def load(given: argparse.Namespace) -> tuple[protocol.Classify, int]:
    """Load the model; a further class, as contempt, is left out of the probabilities."""
    folder = Path(given.model)
    from_crops, classes, contract, weights = by_onnx(folder) if given.runtime == "onnx" else by_torch(folder)
    order = [classes.index(name) for name in protocol.CLASSES]
    begin = (contract.stored_px - contract.crop_px) // 2
    window = slice(begin, begin + contract.crop_px)

    def classify(faces: np.ndarray) -> np.ndarray:
        stored = np.array([whole_picture(np.repeat(face[:, :, None], 3, axis=2), contract) for face in faces])
        seven = from_crops(np.ascontiguousarray(stored[:, window, window]))[:, order]
        return seven / seven.sum(axis=1, keepdims=True)

    return classify, weights.stat().st_size


def by_torch(folder: Path) -> tuple[protocol.Classify, list[str], CropContract, Path]:
    """The model by PyTorch on one thread."""
    import torch

    from facenet2expnet.predict.model_folder import WEIGHTS, find_model, load_model

    torch.set_num_threads(1)
    model = load_model(folder)

    @torch.inference_mode()
    def probabilities(crops: np.ndarray) -> np.ndarray:
        return model.module(torch.from_numpy(crops).permute(0, 3, 1, 2).float()).softmax(dim=1).numpy()

    return probabilities, list(model.classes), model.contract, find_model(folder) / WEIGHTS


def by_onnx(folder: Path) -> tuple[protocol.Classify, list[str], CropContract, Path]:
    """The model that `fn2en export` wrote, by ONNX Runtime on one thread: uint8 RGB crops in, probabilities out."""
    import onnxruntime

    path = folder / "model.onnx"
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    kept, name = session.get_modelmeta().custom_metadata_map, session.get_inputs()[0].name

    def probabilities(crops: np.ndarray) -> np.ndarray:
        return session.run(None, {name: crops})[0]

    return probabilities, json.loads(kept["classes"]), CropContract.from_dict(json.loads(kept["contract"])), path


if __name__ == "__main__":
    sys.exit(protocol.main(load, "--model", "--runtime"))
