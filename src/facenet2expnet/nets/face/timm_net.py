"""Any model of timm by name, as a face net: timm:NAME.

timm's models were mostly trained on objects, not on faces; they serve as a yardstick, or with a face file of one's
own. timm needs the torchvision that goes with the installed PyTorch, so it is an extra.

Source: https://github.com/huggingface/pytorch-image-models
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from facenet2expnet.errors import UserError
from facenet2expnet.nets.face.base import FaceNet, FaceNetInfo
from facenet2expnet.nets.face.download import first_line
from facenet2expnet.nets.face.weights import GENERATED, load_into, read_state_dict

INSTALL = 'pip install "facenet2expnet[timm]"'
POOLED = "pooled"
HUB = ("hf-hub:", "hf_hub:")
"""What a model begins with that timm reads from a Hugging Face repository, its configuration too."""


class TimmNet(FaceNet):
    """A timm model without its classifier; its taps are timm's own feature layers, and the pooled features.

    Args:
        model: made by timm.create_model(…, num_classes=0).
        name: what to call it.
        weights: the file that they are from; None where they are timm's own.
    """

    spread: Tensor

    def __init__(self, model: nn.Module, name: str, weights: Path | None = None) -> None:
        super().__init__()
        self.model = model
        config: dict[str, Any] = dict(model.pretrained_cfg)  # type: ignore[arg-type]
        channels, *_, input_px = config.get("input_size") or (3, 224, 224)
        if channels != 3:
            raise UserError(
                f"{name}: expected a model of colour pictures, this one takes {channels} channels"
            )
        mean = tuple(255.0 * value for value in config.get("mean") or (0.5, 0.5, 0.5))
        deviation = [255.0 * value for value in config.get("std") or (0.5, 0.5, 0.5)]
        scale = sum(deviation) / len(deviation)
        # FaceNetInfo has one scale; what is left of timm's scale of each channel is applied in features().
        spread = torch.tensor([scale / value for value in deviation]).view(1, 3, 1, 1)
        self.register_buffer("spread", spread, persistent=False)
        self.layers = self._layers()
        shapes = self._measured(int(input_px))
        self.info = FaceNetInfo(
            name=name,
            input_px=int(input_px),
            mean_rgb=(mean[0], mean[1], mean[2]),
            scale=scale,
            colour="rgb",
            taps=shapes,
            embedding=POOLED,
            default_tap=self.layers[-1] if self.layers else POOLED,
            licence="of the file" if weights else str(config.get("license") or "not stated by timm"),
            source=str(weights or f"timm, {config.get('hf_hub_id') or config.get('architecture') or name}"),
            notes=_notes(deviation),
        )

    def _layers(self) -> list[str]:
        """timm's names of the layers whose maps it can give."""
        if not hasattr(self.model, "forward_intermediates"):
            return []
        return [str(layer["module"]) for layer in self.model.feature_info]  # type: ignore[union-attr]

    def _measured(self, input_px: int) -> dict[str, tuple[int, ...]]:
        """Layer name -> shape of its output, found by one picture."""
        training = self.model.training
        self.model.eval()
        with torch.no_grad():
            outputs = self.features(torch.zeros(1, 3, input_px, input_px), [*self.layers, POOLED])
        self.model.train(training)
        return {name: tuple(output.shape[1:]) for name, output in outputs.items()}

    def features(self, inputs: Tensor, taps: Sequence[str]) -> dict[str, Tensor]:
        """Outputs of the named layers for preprocessed inputs; stops after the deepest layer asked for."""
        inputs = inputs * self.spread
        model: Any = self.model
        indices = [self.layers.index(name) for name in taps if name != POOLED]
        if not indices:
            return {name: model(inputs) for name in taps}
        unpooled = POOLED not in taps
        result = model.forward_intermediates(
            inputs,
            indices=sorted(set(indices)),
            output_fmt="NCHW",
            stop_early=unpooled,
            intermediates_only=unpooled,
        )
        last, maps = (None, result) if unpooled else result
        found = {self.layers[index]: value for index, value in zip(sorted(set(indices)), maps, strict=True)}
        if not unpooled:
            found[POOLED] = model.forward_head(last)
        return {name: found[name] for name in taps}


def _notes(deviation: list[float]) -> tuple[str, ...]:
    if len(set(deviation)) == 1:
        return ()
    own = ", ".join(f"{value:.7g}" for value in deviation)
    return (f"Red, green and blue are divided by {own} in truth; the scale is the mean of the three.",)


def _timm() -> Any:
    """The package timm.

    Raises:
        UserError: If it, or the torchvision that it needs, is missing or does not fit.
    """
    try:
        import timm
    except (ImportError, RuntimeError) as error:
        raise UserError(
            f"timm:NAME needs timm and the torchvision that goes with the installed PyTorch ({error}); {INSTALL}"
        ) from error
    return timm


def load(weights: Path | None = None, name: str = "timm:resnet18") -> TimmNet:
    """A timm model, in training mode.

    Args:
        weights: a file of that model's weights; None for timm's own, from its hub; or "generated".
        name: timm:NAME, NAME as timm calls it.
    Raises:
        UserError: If timm is missing, has no such model, or the weights cannot be had or are another model's.
    """
    architecture = name.partition(":")[2]
    timm = _timm()
    if not architecture.startswith(HUB) and not timm.is_model(architecture.partition(".")[0]):
        known = timm.list_models()
        near = difflib.get_close_matches(architecture, known, n=3)
        hint = (
            f"; did you mean {', '.join(near)}?"
            if near
            else f"; timm has {len(known)} models, see timm.list_models()"
        )
        raise UserError(
            f"'{name}': expected timm:NAME with a model of timm, which has no '{architecture}'{hint}"
        )
    if weights is None:
        return TimmNet(_made(timm, architecture, name, pretrained=True), name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = _made(timm, architecture, name, pretrained=False)
    if str(weights) == GENERATED:
        return TimmNet(model, name)
    classifier: Any = model.pretrained_cfg.get("classifier") or ()  # type: ignore[union-attr, operator]
    heads = (classifier,) if isinstance(classifier, str) else tuple(classifier)
    ignored = tuple(f"{head}." for head in heads)
    state = {key: value for key, value in read_state_dict(weights).items() if not key.startswith(ignored)}
    load_into(model, state, str(weights), name)
    return TimmNet(model, name, weights)


def _made(timm: Any, architecture: str, name: str, *, pretrained: bool) -> nn.Module:
    """A model of timm without its classifier.

    Raises:
        UserError: If timm cannot make it: no such weights, no network, no such page.
    """
    try:
        model: nn.Module = timm.create_model(architecture, pretrained=pretrained, num_classes=0)
    except Exception as error:  # whatever the hub's client raises for a missing network, page or login
        what = "get its weights" if pretrained else "build it"
        raise UserError(
            f"{name}: timm could not {what} ({first_line(error)}); give the path of a weights file, or check the name "
            "and the connection"
        ) from error
    return model
