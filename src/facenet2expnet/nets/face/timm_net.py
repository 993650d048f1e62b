"""Any model of timm as a face net: timm:NAME.

Most of timm's models were trained on objects, not on faces; they serve as a yardstick, or with a weights file of your
own. timm is an extra because it needs the torchvision that goes with the installed PyTorch.

Source: https://github.com/huggingface/pytorch-image-models
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from facenet2expnet.errors import UserError
from facenet2expnet.nets.face.base import FaceNet, FaceNetInfo
from facenet2expnet.nets.face.download import first_line
from facenet2expnet.nets.face.weights import GENERATED, load_into, read_state_dict

POOLED = "pooled"


class TimmNet(FaceNet):
    """A timm model without its classifier; its taps are timm's feature layers and the pooled features."""

    channel_scale: Tensor

    def __init__(self, model: nn.Module, name: str, weights: Path | None = None) -> None:
        super().__init__()
        self.model = model
        config: dict[str, Any] = dict(model.pretrained_cfg)  # type: ignore[arg-type]
        input_px = int((config.get("input_size") or (3, 224, 224))[-1])
        mean = tuple(255.0 * value for value in config.get("mean") or (0.5, 0.5, 0.5))
        deviation = [255.0 * value for value in config.get("std") or (0.5, 0.5, 0.5)]
        scale = sum(deviation) / len(deviation)
        # FaceNetInfo has one scale for all channels; features() corrects each channel to timm's own.
        channel_scale = torch.tensor([scale / value for value in deviation]).view(1, 3, 1, 1)
        self.register_buffer("channel_scale", channel_scale, persistent=False)
        layers: Any = model.feature_info if hasattr(model, "forward_intermediates") else ()
        self.layers = [str(layer["module"]) for layer in layers]
        with torch.no_grad():
            outputs = self.eval().features(torch.zeros(1, 3, input_px, input_px), [*self.layers, POOLED])
        self.info = FaceNetInfo(
            name=name,
            input_px=input_px,
            mean_rgb=(mean[0], mean[1], mean[2]),
            scale=scale,
            taps={tap: tuple(output.shape[1:]) for tap, output in outputs.items()},
            embedding=POOLED,
            default_tap=self.layers[-1] if self.layers else POOLED,
            licence="of the file" if weights else str(config.get("license") or "not stated by timm"),
            source=str(weights or f"timm, {config.get('hf_hub_id') or config.get('architecture') or name}"),
        )

    def features(self, inputs: Tensor, taps: Sequence[str]) -> dict[str, Tensor]:
        """Return the outputs of the named layers for preprocessed inputs; stop after the deepest one."""
        inputs = inputs * self.channel_scale
        model: Any = self.model
        indices = sorted({self.layers.index(name) for name in taps if name != POOLED})
        if not indices:
            return {name: model(inputs) for name in taps}
        maps_only = POOLED not in taps
        result = model.forward_intermediates(
            inputs, indices=indices, output_fmt="NCHW", stop_early=maps_only, intermediates_only=maps_only
        )
        last, maps = (None, result) if maps_only else result
        outputs = {self.layers[index]: value for index, value in zip(indices, maps, strict=True)}
        if not maps_only:
            outputs[POOLED] = model.forward_head(last)
        return {name: outputs[name] for name in taps}


def load(weights: Path | None, name: str) -> TimmNet:
    """Load a timm model; without a file, timm's own weights from its hub."""
    try:
        import timm
    except (ImportError, RuntimeError) as error:
        raise UserError(
            f"timm:NAME needs timm and the torchvision that goes with the installed PyTorch ({error}); "
            'pip install "facenet2expnet[timm]"'
        ) from error
    architecture = name.partition(":")[2]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        try:
            model: nn.Module = timm.create_model(architecture, pretrained=weights is None, num_classes=0)
        except Exception as error:  # an unknown model, or whatever the hub's client raises
            raise UserError(
                f"{name}: timm can't build it or get its weights ({first_line(error)}); check the name "
                "(timm.list_models() lists them) and the connection, or give the path of a weights file"
            ) from error
    if weights is None or str(weights) == GENERATED:
        return TimmNet(model, name)
    heads: Any = model.pretrained_cfg.get("classifier") or ()  # type: ignore[union-attr, operator]
    ignored = tuple(f"{head}." for head in ([heads] if isinstance(heads, str) else heads))
    state = {key: value for key, value in read_state_dict(weights).items() if not key.startswith(ignored)}
    return TimmNet(load_into(lambda: model, state, weights, name), name, weights)
