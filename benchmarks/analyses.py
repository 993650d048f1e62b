"""Time and memory of `fn2en analyse neurons` for a set of CK+'s size and a network of VGG-16's.

    python benchmarks/analyses.py               # random responses of VGG-16's four layers: only the search for the top
    python benchmarks/analyses.py --network     # VGG-16 with generated weights, the forward passes included

CK+ has 1,308 pictures and eight classes; pool4, pool5, fc6 and fc7 have 100,352, 25,088, 4,096 and 4,096 units.
Prints one line of JSON. The memory is the largest resident size of the whole process.
"""

from __future__ import annotations

import argparse
import json
import resource
import time

import numpy as np
import torch

from facenet2expnet.analysis.layers import layer_batches
from facenet2expnet.analysis.top_activations import TopActivations, label_entropy
from facenet2expnet.nets import face

PICTURES, CLASSES, TOP, BATCH = 1308, 8, 100, 64
UNITS = {"pool4": 100_352, "pool5": 25_088, "fc6": 4096, "fc7": 4096}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", action="store_true", help="run VGG-16 with generated weights")
    parser.add_argument("--pictures", type=int, default=PICTURES)
    arguments = parser.parse_args()
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(CLASSES, (arguments.pictures,), generator=generator)
    before_mb = _largest_mb()
    found = {name: TopActivations(units, TOP, CLASSES) for name, units in UNITS.items()}
    search_s, started = 0.0, time.perf_counter()
    for first, outputs in _batches(arguments.network, arguments.pictures, generator):
        search_started = time.perf_counter()
        for name, values in outputs.items():
            found[name].update(values, labels[first : first + len(values)])
        search_s += time.perf_counter() - search_started
    search_started = time.perf_counter()
    means = {name: float(label_entropy(top.class_shares().numpy()).mean()) for name, top in found.items()}
    search_s += time.perf_counter() - search_started
    result = {
        "pictures": arguments.pictures,
        "network": arguments.network,
        "threads": torch.get_num_threads(),
        "search_s": round(search_s, 1),
        "all_s": round(time.perf_counter() - started, 1),
        "cpu_s": round(time.process_time(), 1),
        "largest_mb_before": round(before_mb),
        "largest_mb": round(_largest_mb()),
        "mean_entropies": {name: round(value, 3) for name, value in means.items()},
    }
    print(json.dumps(result))


def _batches(network: bool, pictures: int, generator: torch.Generator):
    """Yield the number of a batch's first picture and each layer's responses (B, U); random ones have a ReLU."""
    if not network:
        for first in range(0, pictures, BATCH):
            size = min(BATCH, pictures - first)
            sizes = {name: (size, units) for name, units in UNITS.items()}
            yield first, {name: torch.randn(s, generator=generator).relu_() for name, s in sizes.items()}
        return
    net = face.load("vgg-face", "generated")
    pixels = np.random.default_rng(0).integers(0, 256, (pictures, 224, 224, 3), dtype=np.uint8)
    for first, outputs in layer_batches(net, pixels, list(UNITS), 224, batch=16):
        yield first, {name: values.flatten(1) for name, values in outputs.items()}


def _largest_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
