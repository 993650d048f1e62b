"""Pictures a second of `fn2en predict`, end to end and split into its parts, beside two peers.

    python benchmarks/predict.py --model runs/mine
    taskset -c 0 python benchmarks/predict.py --model runs/mine --peer WORK/environments/fer/bin/python \
        --face-api WORK/environments/face-api/node_modules

The clip has one face a frame, or ten, of the bundled sample over a quiet background, 1280 x 720, H.264. Everything runs
on one thread. The parts are measured one after the other over the same frames; end to end they overlap as far as one
thread allows. The peers are the package fer with its MTCNN, and @vladmandic/face-api with its SSD detector and
WebAssembly, whose frames are decoded before; they see the same frames in the same run, and say how many faces they
found. `benchmarks/peers.py --work WORK` makes their environments. Only the ratios within one run mean anything on a
busy machine.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
    os.environ[_name] = "1"

import av  # noqa: E402
import cv2  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from PIL import Image  # noqa: E402

from facenet2expnet import Recognizer  # noqa: E402
from facenet2expnet.data import bundled  # noqa: E402
from facenet2expnet.faces.detect import find_in_photo  # noqa: E402
from facenet2expnet.faces.prepare import cut_face  # noqa: E402
from facenet2expnet.predict.looking import VIDEO_SHARE  # noqa: E402
from facenet2expnet.predict.tracking import Tracker, load_describer  # noqa: E402
from facenet2expnet.predict.video import Every, read_video  # noqa: E402

WIDTH, HEIGHT, RATE = 1280, 720, 25
PEERS = Path(__file__).parent / "peers"
OPTIONS: dict[str, dict[str, float]] = {
    "fn2en, --min-face 20": {"min_face_px": 20.0},
    "fn2en": {"min_face_px": WIDTH / VIDEO_SHARE},
    "fn2en, --min-face 50": {"min_face_px": 50.0},
}
"""The first looks for faces as small as fer's MTCNN does; the second is the default for videos."""


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--frames", type=int, default=100)
    parser.add_argument("--peer", help="the Python of an environment that has the package fer")
    parser.add_argument("--face-api", type=Path, help="the folder node_modules that has @vladmandic/face-api")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    recognizer = Recognizer.load(chosen.model, "cpu")
    print(
        "| faces a frame | what | frames a second | faces found, % | ms a frame: decode | detect | classify | track |"
    )
    print("|---:|---|---:|---:|---:|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as folder:
        for faces in (1, 10):
            clip = make_clip(Path(folder) / f"{faces}.mp4", faces, chosen.frames)
            for name, options in OPTIONS.items():
                print(
                    row(
                        f"{faces} | {name}",
                        end_to_end(recognizer, clip, options),
                        faces,
                        parts(recognizer, clip, options),
                    )
                )
            sparse = end_to_end(recognizer, clip, {"detect_every": 3})
            print(row(f"{faces} | fn2en, --detect-every 3", sparse, faces))
            if chosen.peer:
                print(peer_row(f"{faces} | fer, MTCNN", [chosen.peer, PEERS / "clip_fer.py", clip], faces))
            if chosen.face_api:
                words = ["node", PEERS / "clip_face_api.js", raw_frames(clip), WIDTH, HEIGHT, chosen.frames]
                name = f"{faces} | face-api, SSD, without decoding"
                print(peer_row(name, words, faces, NODE_PATH=str(chosen.face_api.resolve())))


def peer_row(name: str, words: Sequence[object], faces: int, **variables: str) -> str:
    """Run a peer's script, without our packages in sight, and return its row; if it fails, with its last line."""
    environment = os.environ | {"PYTHONPATH": "", "CUDA_VISIBLE_DEVICES": ""} | variables
    ended = subprocess.run([str(word) for word in words], capture_output=True, text=True, env=environment)
    if ended.returncode:
        lines = ended.stderr.strip().splitlines() or [f"exit code {ended.returncode}"]
        return f"| {name}: did not run: {lines[-1]} | | | | | | |"
    return row(name, json.loads(ended.stdout.strip().splitlines()[-1]), faces)


def raw_frames(clip: Path) -> Path:
    """Write the decoded frames beside the clip, and return the file."""
    path = clip.with_suffix(".rgb")
    with path.open("wb") as file:
        for frame in read_video(clip, Every()):
            file.write(frame.pixels.tobytes())
    return path


def row(name: str, found: dict[str, float], faces: int, ms: tuple[float, ...] | None = None) -> str:
    """One row of the table."""
    share = found["faces"] / (faces * found["frames"])
    split = " | ".join(f"{value:.1f}" for value in ms) if ms else " | | | "
    return f"| {name} | {found['rate']:.1f} | {share:.1%} | {split} |"


def make_clip(path: Path, faces: int, frames: int) -> Path:
    """Write a clip in which rendered faces of 90 to 180 pixels move slowly."""
    rng = np.random.default_rng(0)
    table = bundled.read_sample()
    table = table[table["intensity"] > 0.8].groupby("subject").head(1).iloc[:faces]
    pictures = [np.asarray(Image.open(bundled.sample_folder() / image).convert("RGB")) for image in table["image"]]
    wall = cv2.GaussianBlur(rng.integers(40, 200, (HEIGHT, WIDTH, 3), dtype=np.uint8), (0, 0), 8)
    sides = rng.integers(90, 180, faces)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=RATE, options={"crf": "20", "preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for number in range(frames):
            pixels = wall.copy()
            for face, (picture, side) in enumerate(zip(pictures, sides, strict=True)):
                x = 40 + face % 5 * 245 + round(20 * np.sin(number / 9 + face))
                y = 60 + face // 5 * 340 + round(20 * np.cos(number / 7 + face))
                pixels[y : y + side, x : x + side] = cv2.resize(picture, (side, side), interpolation=cv2.INTER_AREA)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, RATE)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def end_to_end(recognizer: Recognizer, clip: Path, options: dict[str, float]) -> dict[str, float]:
    """Frames a second of the whole stream, with tracks."""
    next(iter(recognizer.stream(clip, workers=1, **options)))
    began, faces, frames = time.perf_counter(), 0, 0
    for result in recognizer.stream(clip, workers=1, **options):
        faces += len(result.faces)
        frames += 1
    return {"rate": frames / (time.perf_counter() - began), "faces": faces, "frames": frames}


def parts(recognizer: Recognizer, clip: Path, options: dict[str, float]) -> tuple[float, float, float, float]:
    """Milliseconds a frame of decoding, detecting, classifying (with cutting out), and tracking."""
    contract = recognizer.contract.for_photos()
    tracker = Tracker(load_describer(), contract.detector)
    spent = np.zeros(4)
    count = 0
    frames = read_video(clip, Every())
    while True:
        marks = [time.perf_counter()]
        frame = next(frames, None)
        if frame is None:
            return tuple(spent / count * 1000)  # type: ignore[return-value]
        marks.append(time.perf_counter())
        faces = find_in_photo(frame.pixels, contract, min_face_px=options["min_face_px"])
        marks.append(time.perf_counter())
        crops = np.stack([cut_face(frame.pixels, face, contract) for face in faces])
        recognizer.probabilities(crops)
        marks.append(time.perf_counter())
        tracker.update(frame.pixels, frame.time_s, faces)
        marks.append(time.perf_counter())
        spent += np.diff(marks)
        count += 1


if __name__ == "__main__":
    main()
