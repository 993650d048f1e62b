"""Is the paper's rate of 1e-7 stable? Stage 1 of the recipe `paper`, by the scale of pixels and of the teacher.

    OMP_NUM_THREADS=1 python benchmarks/paper_rate.py --scale 1 --teacher 3
    OMP_NUM_THREADS=1 python benchmarks/paper_rate.py --scale 64 --teacher 3

A few faces of the bundled sample at 224 pixels, always the same batch without augmentation, with the paper's
expression net and VGG-16's pool5. The face net has generated weights, and its features are as large as the
pixels it sees. `--teacher R` scales them to the root mean square R, since VGG-Face's own weights were not
available. Each step prints the loss of eq. (4), the root mean square of the student's features, and R2 within
the batch.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import replace

import torch

from facenet2expnet import recipes
from facenet2expnet.crop import centre_crop
from facenet2expnet.data.bundled import sample_folder
from facenet2expnet.data.dataset import load_dataset
from facenet2expnet.data.manifest import read_manifest
from facenet2expnet.nets import face
from facenet2expnet.nets.classifier import ExpressionClassifier
from facenet2expnet.nets.expnet import ExpNet
from facenet2expnet.training.losses import p_norm_loss


def rms(features: torch.Tensor) -> float:
    """Compute the root mean square."""
    return float(features.square().mean().sqrt())


def main() -> None:
    """Print one line for each step, until the loss is not finite."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=float, default=64.0, help="divides the student's pixels")
    parser.add_argument("--teacher", type=float, help="root mean square of the teacher's features")
    parser.add_argument("--pictures", type=int, default=4)
    parser.add_argument("--steps", type=int, default=25)
    given = parser.parse_args()
    recipe = recipes.preset("paper")
    stage, crop = recipe.stage1, recipe.crop
    manifest = read_manifest(sample_folder() / "manifest.csv")
    few = manifest.table.iloc[:: len(manifest) // given.pictures][: given.pictures].reset_index(drop=True)
    cropped = replace(crop, detector="already-cropped", template="none")
    pixels = load_dataset(replace(manifest, table=few), cropped, min_classes=0).pixels
    crops = centre_crop(torch.from_numpy(pixels).permute(0, 3, 1, 2).float(), crop.crop_px)
    teacher = face.load(recipe.face_net.name, face.GENERATED)
    with torch.no_grad():
        target = torch.cat([teacher(picture[None], [recipe.face_net.tap])[recipe.face_net.tap] for picture in crops])
    if given.teacher:
        target *= given.teacher / rms(target)
    torch.manual_seed(0)
    c, h, w = target.shape[1:]
    net = ExpNet(len(manifest.classes), input_px=crop.crop_px, bridge_chw=(c, h, w), width=recipe.expnet.width)
    student = ExpressionClassifier(net, crop.mean, given.scale)
    learning = [*net.convolutions.parameters(), *net.bridge.parameters()]
    optimiser = torch.optim.SGD(
        [
            {"params": [p for p in learning if p.ndim > 1], "weight_decay": stage.weight_decay},
            {"params": [p for p in learning if p.ndim <= 1]},
        ],
        lr=stage.lr,
        momentum=stage.momentum,
    )
    total = (target - target.mean(0)).square().sum()
    print(f"teacher {rms(target):.1f}, pixels divided by {given.scale:g}, rate {stage.lr:g}")
    for step in range(1, given.steps + 1):
        distilled = student.distilled(crops)
        unexplained = (distilled.detach() - target).square().sum()
        loss = p_norm_loss(distilled, target)
        r2 = 1 - float(unexplained / total)
        features = rms(distilled.detach())
        print(f"step {step}: loss {loss.item():.4g}, student {features:.3g}, R2 {r2:.3g}", flush=True)
        if not math.isfinite(loss.item()):
            break
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()


if __name__ == "__main__":
    main()
