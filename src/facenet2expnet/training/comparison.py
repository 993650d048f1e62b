"""What the expression net is compared with: the frozen face net's features, at one layer or at several."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from facenet2expnet.errors import StageStopped
from facenet2expnet.nets.bridge import Bridge
from facenet2expnet.nets.classifier import ExpressionClassifier, FaceClassifier
from facenet2expnet.nets.expnet import reset_parameters
from facenet2expnet.training.losses import ObjectiveModule, RSquared
from facenet2expnet.training.losses.phi_s import rotate
from facenet2expnet.training.losses.statistics import CONSTANT_BELOW
from facenet2expnet.training.teacher import Views


class Comparison:
    """The expression net's features against the face net's, FN2EN eq. (4); the mean over layers.

    The first layer's bridge is the expression net's own, and feeds its fully connected layers. Every further layer
    has a bridge of its own from the same maps. It learns with the others, and no model keeps it.

    Args:
        student: the expression net, its bridge without an affine.
        teacher: the face net, frozen.
        objectives: tapped layer -> its objective, fitted on that layer.
        target_mean: per-unit mean of the first layer's targets, against which R2 is taken.
        bridges: of the further layers.
        views: where the teacher's answers are read; None runs it.
    """

    def __init__(
        self,
        student: ExpressionClassifier,
        teacher: FaceClassifier,
        objectives: Mapping[str, ObjectiveModule],
        target_mean: Tensor,
        bridges: Sequence[Bridge],
        views: Views | None,
    ) -> None:
        self.student, self.teacher, self.views = student, teacher.eval(), views
        self.taps, self.objectives = list(objectives), list(objectives.values())
        self.bridges = list(bridges)
        self.target_mean = target_mean
        self.explained = RSquared(target_mean)
        self.turned_back: Tensor | None = None

    @torch.no_grad()
    def features(self, crops: Tensor, index: tuple[np.ndarray, np.ndarray] | None) -> list[Tensor]:
        """The face net's features of the crops at every layer, read where an index into the views is given."""
        if self.views is None or index is None:
            return [values.float() for values in self.teacher.with_taps(crops, self.taps)[1]]
        stored = [self.views.features[tap][index] for tap in self.taps]
        return [torch.from_numpy(values).to(crops.device).float() for values in stored]

    @contextmanager
    def watching(self) -> Iterator[list[Tensor]]:
        """Collect the student's last maps of every pass made inside, so that one pass serves all losses."""
        maps: list[Tensor] = []
        handle = self.student.net.convolutions.register_forward_hook(lambda *passed: maps.append(passed[2]))
        try:
            yield maps
        finally:
            handle.remove()

    def loss(self, maps: Tensor, features: Sequence[Tensor], *, counted: bool = True) -> Tensor:
        """The student's last maps and the face net's features of the same crops -> scalar; `counted` towards R2."""
        own: Tensor = self.student.net.bridge.before_affine(maps)
        if self.turned_back is not None:
            own = rotate(own.float(), self.turned_back)
        if counted:
            self.explained.update(own, self.objectives[0].target(features[0]))
        outputs = [own, *(bridge.before_affine(maps) for bridge in self.bridges)]
        each = zip(self.objectives, outputs, features, strict=True)
        losses = [objective(output, feature) for objective, output, feature in each]
        return torch.stack(losses).mean() if len(losses) > 1 else losses[0]

    def r2(self) -> float:
        """R2 at the first layer since the last call."""
        r2 = self.explained.compute()
        self.explained = RSquared(self.target_mean)
        return r2

    def restore_scale(self) -> None:
        """Let the student's bridge give the face net's own scale from now on; what is compared stays as it was."""
        parts = self.objectives[0].restoration()
        bridge = self.student.net.bridge
        if parts.rotation is not None:
            bridge.turn(parts.rotation)
            self.turned_back = parts.rotation.T
        bridge.set_affine(parts.shift, parts.scale)


def mean_target(objective: ObjectiveModule, features: Iterable[Tensor]) -> Tensor:
    """Per-unit mean of the training part's targets, against which stage 1's R2 is taken.

    Raises:
        StageStopped: If no unit varies, so that there is nothing to learn.
    """
    total, count = torch.zeros(()), 0
    lowest, highest = torch.tensor(torch.inf), torch.tensor(-torch.inf)
    for batch in features:
        targets = objective.target(batch.to(next(objective.buffers(), batch).device)).double().cpu()
        total = total + targets.sum(0)
        lowest, highest = torch.minimum(lowest, targets.amin(0)), torch.maximum(highest, targets.amax(0))
        count += len(targets)
    if bool((highest - lowest <= CONSTANT_BELOW * torch.maximum(lowest.abs(), highest.abs())).all()):
        raise StageStopped(
            f"all {total.numel()} units of the face net's feature are constant over the training part, expected some "
            "to vary: give more and different pictures, or choose another layer (face_net.tap)"
        )
    return total / count


class Accompanied(nn.Module):
    """A network with the bridges that learn beside it, as one module; its answers are the network's."""

    def __init__(self, network: nn.Module, bridges: Sequence[Bridge]) -> None:
        super().__init__()
        self.network, self.bridges = network, nn.ModuleList(bridges)

    def forward(self, crops: Tensor) -> Any:
        return self.network(crops)


def further_bridges(
    in_chw: tuple[int, int, int], shapes: Iterable[tuple[int, int, int]], device: torch.device
) -> list[Bridge]:
    """Bridges from the maps `in_chw` to layers of these shapes, begun as the expression net's own."""
    bridges = [Bridge(in_chw, shape) for shape in shapes]
    for bridge in bridges:
        reset_parameters(bridge)
    return [bridge.to(device) for bridge in bridges]
