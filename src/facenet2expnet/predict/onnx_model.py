"""A model in an ONNX file that `fn2en export` wrote, run by ONNX Runtime; PyTorch is not needed."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from facenet2expnet.crop import CropContract, centre_window
from facenet2expnet.errors import UserError
from facenet2expnet.predict.scores import batches

if TYPE_CHECKING:
    import onnxruntime

FORMAT = "facenet2expnet-onnx-1"
INPUT, OUTPUT = "crops", "probabilities"
ENDING = ".onnx"

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
"""Device -> ONNX Runtime's name of what computes there."""

REMEDY = "make the file again with fn2en export"


@dataclass(frozen=True, eq=False)
class OnnxModel:
    """A classifier in an ONNX file, and everything needed to use it.

    Attributes:
        session: `crops` (N, crop_px, crop_px, 3) uint8 RGB -> `probabilities` (N, K) float32.
        classes: class names in the order of the probabilities.
        contract: how a picture becomes a crop.
        metadata: the model card's other keys, as for a model folder, and under "export" the precision and how far the
            file was found to differ from PyTorch.
        device: "cpu" or "cuda".
    """

    session: onnxruntime.InferenceSession
    classes: tuple[str, ...]
    contract: CropContract
    metadata: dict[str, Any]
    device: str

    def __reduce__(self) -> NoReturn:
        raise UserError(
            "the model of an ONNX file can't be copied to another process; load it there: Recognizer.load(FILE)"
        )

    def probabilities(self, crops: np.ndarray) -> np.ndarray:
        """Class probabilities (N, K) float32 of crops (N, crop_px, crop_px, 3) uint8 RGB."""
        found: np.ndarray = self.session.run([OUTPUT], {INPUT: np.ascontiguousarray(crops)})[0]
        return found

    def __call__(self, faces: np.ndarray, *, rows: np.ndarray | None = None) -> np.ndarray:
        """Class probabilities of the centre crop of every stored face; see `scores.Classifier`."""
        window = centre_window(faces.shape[1], self.contract.crop_px)
        return np.concatenate([self.probabilities(batch[:, window, window]) for batch in batches(faces, rows)])


def is_onnx(path: str | Path) -> bool:
    """Whether a path is the name of an ONNX file."""
    return Path(path).suffix.lower() == ENDING


def load_onnx(source: Path | bytes, device: str = "auto") -> OnnxModel:
    """Load a model that `fn2en export` wrote.

    Args:
        source: the file, or its content.
        device: "cpu", "cuda", or "auto" for a GPU that ONNX Runtime can use, otherwise the CPU.
    Raises:
        UserError: If ONNX Runtime is not installed, there is no such file or device, or the file is damaged or was not
            made by `fn2en export`.
    """
    name = str(source) if isinstance(source, Path) else "the ONNX file"
    if isinstance(source, Path) and not source.is_file():
        raise UserError(f"{name}: there is no such ONNX file")
    try:
        import onnxruntime
    except ImportError:
        raise UserError(f'{name} needs ONNX Runtime; pip install "facenet2expnet[runtime]"') from None
    device = choose_device(device, onnxruntime.get_available_providers())
    providers = [PROVIDERS[device], *([PROVIDERS["cpu"]] if device != "cpu" else [])]
    try:
        given = str(source) if isinstance(source, Path) else source
        session = onnxruntime.InferenceSession(given, _options(), providers=providers)
    except Exception as error:  # ONNX Runtime's errors have no base of their own
        raise UserError(f"{name}: not a whole ONNX file ({str(error).splitlines()[0]}); {REMEDY}") from None
    model = _described(session, name, device)
    if isinstance(source, Path):
        _check_shared(model.metadata["export"], source.parent, name)
    return model


def _check_shared(export: dict[str, Any], folder: Path, name: str) -> None:
    """Compare the weights that the file takes from another one beside it, if it does, with their hash.

    Raises:
        UserError: If the other file is another one: ONNX Runtime reads whatever is there.
    """
    for other, expected in export.get("shares", {}).items():
        with (folder / other).open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != expected:
                raise UserError(f"{name}: its weights are in {other}, which has changed since; {REMEDY}")


def choose_device(name: str, available: list[str]) -> str:
    """Return "cpu" or "cuda" for "auto", "cpu" or "cuda"; `available` are ONNX Runtime's providers.

    Raises:
        UserError: If ONNX Runtime can't compute there.
    """
    cuda = PROVIDERS["cuda"] in available
    if name == "auto":
        return "cuda" if cuda else "cpu"
    if name not in PROVIDERS:
        raise UserError(f"device is '{name}', expected auto, cpu or cuda for an ONNX file")
    if name == "cuda" and not cuda:
        raise UserError("device is 'cuda', but this ONNX Runtime has no CUDA; pip install onnxruntime-gpu, or use cpu")
    return name


def _options() -> onnxruntime.SessionOptions:
    """One thread a core, or as many as OMP_NUM_THREADS says; idle threads sleep."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    threads = os.environ.get("OMP_NUM_THREADS", "")
    options.intra_op_num_threads = int(threads) if threads.isdecimal() else 0
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # waiting would cost as much as working
    options.log_severity_level = 4  # errors are raised; they need not be logged too
    return options


def _described(session: onnxruntime.InferenceSession, name: str, device: str) -> OnnxModel:
    """Read classes, contract and model card from the file's metadata, and check that the graph fits them."""
    try:
        kept, taken, given = session.get_modelmeta().custom_metadata_map, session.get_inputs(), session.get_outputs()
        shapes = {value.name: (value.type, value.shape[1:]) for value in [*taken, *given]}
    except UnicodeDecodeError as error:
        raise UserError(f"{name}: not a whole ONNX file ({error}); {REMEDY}") from None
    if kept.get("format") != FORMAT:
        found = f"its format is '{kept['format']}'" if "format" in kept else "it states no format"
        raise UserError(f"{name}: expected an ONNX file of fn2en export, format {FORMAT}, but {found}; {REMEDY}")
    try:
        classes = tuple(json.loads(kept["classes"]))
        contract = CropContract.from_dict(json.loads(kept["contract"]))
        metadata = {**json.loads(kept["card"]), "export": json.loads(kept["export"])}
    except (KeyError, TypeError, ValueError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else error
        raise UserError(f"{name}: its metadata can't be read: {reason}; {REMEDY}") from None
    side = contract.crop_px
    expected = {INPUT: ("tensor(uint8)", [side, side, 3]), OUTPUT: ("tensor(float)", [len(classes)])}
    if shapes != expected:
        raise UserError(f"{name}: its graph has {shapes}, expected {expected}; {REMEDY}")
    return OnnxModel(session, classes, contract, metadata, device)
