"""Networks from crop to class scores: the expression net with its pixel scale, and a face net with a new head."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from facenet2expnet.nets.expnet import ExpNet
from facenet2expnet.nets.face.base import FaceNet

LUMINANCE = (0.299, 0.587, 0.114)
"""Weights of R, G and B, as Pillow and OpenCV make pictures grey (ITU-R BT.601)."""


class ExpressionClassifier(nn.Module):
    """The expression net on (crops - mean_rgb) / scale: RGB crops in 0..255 in, class scores out."""

    mean: Tensor

    def __init__(self, net: ExpNet, mean_rgb: tuple[float, float, float], scale: float) -> None:
        super().__init__()
        self.net = net
        self.scale = scale
        self.register_buffer("mean", torch.tensor(mean_rgb).view(1, 3, 1, 1), persistent=False)

    def normalise(self, crops: Tensor) -> Tensor:
        """Return what the expression net sees of pixels (B, 3, H, W) in 0..255; channels last is faster."""
        return ((crops - self.mean) / self.scale).contiguous(memory_format=torch.channels_last)

    def forward(self, crops: Tensor) -> Tensor:
        """Return class scores before softmax (B, K) of crops (B, 3, H, W) in 0..255."""
        scores: Tensor = self.net(self.normalise(crops))
        return scores

    def distilled(self, crops: Tensor) -> Tensor:
        """Return what stage 1 trains: the bridge's output before its affine, (B, *bridge_chw), of crops in 0..255."""
        return self.net.bridge.before_affine(self.net.convolutions(self.normalise(crops)))

    def with_distilled(self, crops: Tensor) -> tuple[Tensor, Tensor]:
        """Return class scores (B, K) and, from the same pass, what `distilled` gives."""
        distilled = self.distilled(crops)
        scores: Tensor = self.net.head(self.net.bridge.affine(distilled))
        return scores, distilled

    @torch.no_grad()
    def ignore_colour(self) -> None:
        """Make the first convolution see luminance only: a coloured picture gets the answer of its grey version.

        Predictions for grey pictures do not change. A net that learned from grey pictures only needs this: nothing
        taught its three input channels to agree, so colour would act as noise.
        """
        layers = self.net.convolutions
        conv, norm = layers.get_submodule("conv1"), getattr(layers, "bn1", None)
        assert isinstance(conv, nn.Conv2d)
        luminance = torch.tensor(LUMINANCE).to(conv.weight).view(1, 3, 1, 1)
        # The contract's means may differ from channel to channel, and the mean of luminance from all of them. Then
        # the answers at the border, where the convolution sees zeros, change a little.
        lowered = ((luminance * self.mean).sum() - self.mean) / self.scale
        constant = (conv.weight * lowered).sum(dim=(1, 2, 3))
        conv.weight.copy_(conv.weight.sum(1, keepdim=True) * luminance)
        if conv.bias is not None:
            conv.bias.add_(constant)
        else:
            assert isinstance(norm, nn.BatchNorm2d)
            assert norm.running_mean is not None
            norm.running_mean.sub_(constant)


class FaceClassifier(nn.Module):
    """A face net with a new classifier on its embedding: what stage 0 trains, and the paper's second baseline.

    Args:
        face_net: the face net; all of it learns.
        classes: number of classes K.
        head_norm: an affine-free batch norm before the classifier, which takes out the embedding's scale.
        head_dropout: before the classifier.
    """

    def __init__(self, face_net: FaceNet, classes: int, *, head_norm: bool, head_dropout: float) -> None:
        super().__init__()
        self.face_net = face_net
        self.embedding = face_net.info.embedding
        channels = face_net.info.taps[self.embedding][0]
        scores = nn.Linear(channels, classes)
        nn.init.normal_(scores.weight, std=0.01)
        nn.init.zeros_(scores.bias)
        norm = nn.BatchNorm1d(channels, affine=False) if head_norm else nn.Identity()
        self.head = nn.Sequential(OrderedDict(norm=norm, dropout=nn.Dropout(head_dropout), scores=scores))

    def forward(self, crops: Tensor) -> Tensor:
        """Return class scores before softmax (B, K) of crops (B, 3, H, W) in 0..255."""
        return self.with_taps(crops, [])[0]

    def with_taps(self, crops: Tensor, taps: Sequence[str]) -> tuple[Tensor, list[Tensor]]:
        """Return class scores and, from the same pass, the outputs of layers, all as maps (B, C, H, W).

        A layer that gives vectors (B, U) gives maps of one position, (B, U, 1, 1), as a bridge does.
        """
        found = self.face_net(crops, list(dict.fromkeys([self.embedding, *taps])))
        embedding = found[self.embedding]
        embedding = embedding.mean(dim=(2, 3)) if embedding.ndim == 4 else embedding
        features = [found[tap] for tap in taps]
        return self.head(embedding), [f if f.ndim == 4 else f[:, :, None, None] for f in features]


class AveragedTeacher(nn.Module):
    """Several fine-tuned copies of one face net as one teacher: their scores and features are averaged.

    They began with the same weights, so that their units still mean the same.
    """

    def __init__(self, members: Sequence[FaceClassifier]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    @property
    def face_net(self) -> FaceNet:
        """The first member's; for its metadata."""
        member = self.members[0]
        assert isinstance(member, FaceClassifier)
        return member.face_net

    def forward(self, crops: Tensor) -> Tensor:
        """Return the mean class scores (B, K) of crops (B, 3, H, W) in 0..255."""
        return self.with_taps(crops, [])[0]

    def with_taps(self, crops: Tensor, taps: Sequence[str]) -> tuple[Tensor, list[Tensor]]:
        """Return the mean class scores and the mean outputs of layers; see FaceClassifier."""
        answers = [member.with_taps(crops, taps) for member in self.members]  # type: ignore[operator]
        scores = torch.stack([scores for scores, _ in answers]).mean(0)
        return scores, [torch.stack(of_tap).mean(0) for of_tap in zip(*(found for _, found in answers), strict=True)]


Teacher = FaceClassifier | AveragedTeacher
"""What stages 1 and 2 ask."""


@torch.no_grad()
def divide_scores(model: nn.Module, temperature: float) -> None:
    """Divide a classifier's scores by a temperature, within its last layer: a saved model needs no other step."""
    layer = (model.net if isinstance(model, ExpressionClassifier) else model).get_submodule("head.scores")
    assert isinstance(layer, nn.Linear)
    layer.weight.div_(temperature)
    layer.bias.div_(temperature)
