"""Peak memory of `fn2en predict` on a short and on a long video: it should not grow with the length.

    python benchmarks/predict_memory.py --model runs/mine --frames 10 100000
    python benchmarks/predict_memory.py --model runs/mine --frames 10 5000 --faces all

Each video is made here (128 pixels, MPEG-4) and read by a process of its own, which writes a CSV; its peak is what the
system counted. By default every frame is taken for a face. With `--faces all` faces are looked for and tracked, and the
frames show a rendered face that moves. Ends with exit code 1 if the peaks are more than 50 MB apart.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

import memory
import start_up

SIDE, RATE = 128, 25
ALLOWED_MB = 50


def main() -> int:
    """Print a Markdown table; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--frames", type=int, nargs="+", default=[10, 100_000])
    parser.add_argument("--faces", choices=("whole-image", "all"), default="whole-image")
    given = parser.parse_args()
    print("| frames | rows | peak, MB |\n|---:|---:|---:|")
    os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    peaks = []
    with tempfile.TemporaryDirectory() as folder:
        for frames in given.frames:
            table = Path(folder) / "table.csv"
            clip = memory.in_process(make_clip, Path(folder) / f"{frames}.mp4", frames)
            options = ["--faces", given.faces, "--out", str(table), "--quiet", "--workers", "1"]
            peaks.append(start_up.cost([sys.executable, *start_up.COMMAND, str(given.model), str(clip), *options])[1])
            with table.open() as lines:
                print(f"| {frames:,} | {sum(1 for _ in lines) - 1:,} | {peaks[-1]:.0f} |", flush=True)
    difference = max(peaks) - min(peaks)
    print(f"\nDifference: {difference:.0f} MB; {ALLOWED_MB} are allowed.")
    return int(difference > ALLOWED_MB)


def make_clip(path: Path, frames: int) -> Path:
    """Write a video of a rendered face that moves a little; in a process of its own, as it loads large packages."""
    from fractions import Fraction

    import av
    import cv2
    import numpy as np
    from PIL import Image

    from facenet2expnet.data import bundled

    table = bundled.read_sample()
    face = np.asarray(Image.open(bundled.sample_folder() / table["image"].iloc[0]).convert("RGB"))
    face = cv2.resize(face, (SIDE - 20, SIDE - 20), interpolation=cv2.INTER_AREA)
    steps = []
    for step in range(20):
        pixels = np.full((SIDE, SIDE, 3), 120, np.uint8)
        pixels[10 : SIDE - 10, step : step + SIDE - 20] = face
        steps.append(av.VideoFrame.from_ndarray(pixels, format="rgb24"))
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=RATE)
        stream.width = stream.height = SIDE
        stream.pix_fmt = "yuv420p"
        for number in range(frames):
            frame = steps[abs(number % 38 - 19)]
            frame.pts, frame.time_base = number, Fraction(1, RATE)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


if __name__ == "__main__":
    sys.exit(main())
