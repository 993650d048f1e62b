"""Draw one head with VTK, off screen: skin, mouth, eyes, lashes, hair, light, background."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import cv2
import numpy as np
import pyvista as pv
from head import HeadModel
from mesh import PARTS, Floats, neighbour_mean, vertex_normals
from numpy.typing import NDArray
from skin import (
    PLAIN,
    ROWS,
    Looks,
    crease_masks,
    creases,
    detail_texture,
    eye_texture,
    hairline_strokes,
    smooth_noise,
    texture_points,
)
from vtkmodules.util.numpy_support import numpy_to_vtk, vtk_to_numpy
from vtkmodules.vtkCommonDataModel import vtkImageData
from vtkmodules.vtkRenderingCore import vtkTexture, vtkWindowToImageFilter

# Distance of the camera and side of the square it sees at the face, in decimetres.
DISTANCE_DM, SIDE_DM = 13.0, 1.68
# What the picture's centre looks at, below the point between the eyes.
LOOK_AT_DM = -0.27
# MakeHuman's upper teeth sit high behind the lip; lower and further forward they show in a smile.
TEETH_SHIFT_DM = np.array([0.0, -0.045, 0.012], np.float32)
PIVOT_DM = np.array([0.0, -0.75, -0.95], np.float32)


@dataclass(frozen=True)
class View:
    """Head turn, light and place of one picture.

    Attributes:
        turn_deg: (yaw to the left, pitch up, roll) of the head.
        key_deg: (azimuth to the right, elevation) of the main light.
        key, fill, ambient: Strengths of the lights.
        warmth: -1..1, colour of the main light from cool to warm.
        shift_dm: (x, y) of the head in the picture.
        zoom: Factor on the size of the head.
    """

    turn_deg: tuple[float, float, float]
    key_deg: tuple[float, float]
    key: float
    fill: float
    ambient: float
    warmth: float
    shift_dm: tuple[float, float]
    zoom: float


def _texture(pixels: NDArray[np.uint8]) -> tuple[vtkTexture, vtkImageData]:
    image = vtkImageData()
    image.SetDimensions(pixels.shape[1], pixels.shape[0], 1)
    _fill(image, pixels)
    texture = vtkTexture()
    texture.SetInputData(image)
    texture.InterpolateOn()
    texture.MipmapOn()
    return texture, image


def _fill(image: vtkImageData, pixels: NDArray[np.uint8]) -> None:
    flat = np.ascontiguousarray(pixels[::-1]).reshape(-1, 3)
    image.GetPointData().SetScalars(numpy_to_vtk(flat, deep=True))
    image.Modified()


def _rotation(turn_deg: tuple[float, float, float]) -> Floats:
    yaw, pitch, roll = np.deg2rad(turn_deg)
    about_y = np.array([[np.cos(yaw), 0, np.sin(yaw)], [0, 1, 0], [-np.sin(yaw), 0, np.cos(yaw)]])
    about_x = np.array([[1, 0, 0], [0, np.cos(pitch), np.sin(pitch)], [0, -np.sin(pitch), np.cos(pitch)]])
    about_z = np.array([[np.cos(roll), -np.sin(roll), 0], [np.sin(roll), np.cos(roll), 0], [0, 0, 1]])
    return (about_z @ about_x @ about_y).astype(np.float32)


class _Part:
    """A drawn piece of the refined mesh with points of its own."""

    def __init__(
        self, plotter: pv.Plotter, faces: NDArray[np.int64], look: dict[str, float], channels: int = 3
    ) -> None:
        self.vertices, local = np.unique(faces, return_inverse=True)
        local = local.reshape(faces.shape)
        points = np.zeros((len(self.vertices), 3), np.float32)
        triangles = np.concatenate([local[:, [0, 1, 2]], local[:, [0, 2, 3]]])
        self.mesh = pv.PolyData(points, np.c_[np.full(len(triangles), 3), triangles].ravel())
        self.mesh.point_data["colour"] = np.full((len(points), channels), 255, np.uint8)
        self.mesh.point_data["Normals"] = np.tile(np.float32([0, 0, 1]), (len(points), 1))
        self.mesh.point_data.active_normals_name = "Normals"
        self.actor = plotter.add_mesh(
            self.mesh, scalars="colour", rgb=True, smooth_shading=False, show_scalar_bar=False, **look
        )
        self.actor.prop.interpolation = "Phong"
        if channels == 4:
            self.actor.ForceTranslucentOn()

    def coordinates(self, uv: Floats) -> None:
        self.mesh.active_texture_coordinates = uv

    def place(self, points: Floats, normals: Floats, colours: Floats) -> None:
        self.mesh.points = points[self.vertices]
        self.mesh.point_data["Normals"] = normals[self.vertices]
        self.mesh.point_data["colour"] = np.clip(colours, 0, 255).astype(np.uint8)


class Stage:
    """A plotter that holds the head's parts; one person at a time steps on it."""

    def __init__(self, model: HeadModel, size: int) -> None:
        self.model = model
        surface = model.surface
        self._faces, self._template = surface.faces, surface.template_dm
        self._neighbours = neighbour_mean(surface.faces, len(surface.template_dm))
        self._lips, self._lids = model.mask("lips"), model.mask("eyelids")
        self._ears = model.mask("ears")
        part = {name: surface.faces[surface.parts == number] for number, name in enumerate(PARTS)}
        self.plotter = pv.Plotter(off_screen=True, window_size=(size, size), lighting="none")
        middle = self._template[part["skin"]].mean(axis=1)
        face = (np.abs(middle[:, 0]) < 0.62) & (middle[:, 1] > 5.9) & (middle[:, 1] < 7.6) & (middle[:, 2] > 0.6)
        flesh = np.concatenate([part["skin"], part["mouth"], part["socket"]])
        skin_look = {"ambient": 0.0, "diffuse": 1.0, "specular": 0.16, "specular_power": 14}
        wet = {"ambient": 0.0, "diffuse": 1.0, "specular": 0.5, "specular_power": 60}
        self.skin = _Part(self.plotter, flesh, skin_look)
        self.skin.coordinates(texture_points(self._template[self.skin.vertices]))
        self.eyes = [_Part(self.plotter, part[name], wet) for name in ("eye_left", "eye_right")]
        for eye in self.eyes:
            front = self._template[eye.vertices]
            middle = (front.min(axis=0) + front.max(axis=0)) / 2
            radius = (front[:, 1].max() - front[:, 1].min()) / 2
            eye.coordinates(np.clip((front[:, :2] - middle[:2]) / radius / 2 + 0.5, 0, 1).astype(np.float32))
        teeth = np.concatenate([part["teeth_upper"], part["teeth_lower"]])
        self.teeth = _Part(self.plotter, teeth, wet)
        self._upper_teeth = np.unique(part["teeth_upper"])
        self.tongue = _Part(self.plotter, part["tongue"], wet)
        self.lashes = _Part(self.plotter, part["lashes"], {"ambient": 0.0, "diffuse": 1.0, "opacity": 0.5})
        hair_look = {"ambient": 0.0, "diffuse": 1.0, "specular": 0.25, "specular_power": 25}
        self._hair_faces = part["skin"][~face]
        self.hair = _Part(self.plotter, part["skin"][~face], hair_look, channels=4)
        self._is_mouth = np.zeros(len(self._template), bool)
        self._is_mouth[np.unique(part["mouth"])] = True
        self._is_mouth[np.unique(part["skin"])] = False
        self._is_socket = np.zeros(len(self._template), bool)
        self._is_socket[np.unique(part["socket"])] = True
        self._is_socket[np.unique(part["skin"])] = False
        self.lights = [pv.Light(light_type="scene light") for _ in range(3)]
        for light in self.lights:
            light.positional = False
            self.plotter.add_light(light)
        self.plotter.camera.position = (0.0, LOOK_AT_DM, DISTANCE_DM)
        self.plotter.camera.focal_point = (0.0, LOOK_AT_DM, 0.0)
        self.plotter.camera.up = (0.0, 1.0, 0.0)
        self.plotter.camera.view_angle = float(np.rad2deg(2 * np.arctan(SIDE_DM / 2 / (DISTANCE_DM - 0.1))))
        self.plotter.camera.clipping_range = (5.0, 25.0)
        # The drawing is made larger than the picture, so it needs no smoothing of its own.
        self.plotter.render_window.SetMultiSamples(0)
        self.plotter.render_window.SetAlphaBitPlanes(1)
        self.plotter.renderer.SetBackgroundAlpha(0.0)
        self.plotter.show(auto_close=False, interactive=False)
        self._grab = vtkWindowToImageFilter()
        self._grab.SetInput(self.plotter.render_window)
        self._grab.SetInputBufferTypeToRGBA()
        self._grab.ReadFrontBufferOff()

    def enter(self, rng: np.random.Generator, looks: Looks) -> None:
        """Dress the stage's head with a person's colours; the same chance gives the same textures."""
        self._looks = looks
        self._detail = detail_texture(rng, looks)
        self._creases = crease_masks(rng)
        texture, self._skin_image = _texture((self._detail * 255).astype(np.uint8))
        self.skin.actor.SetTexture(texture)
        iris = eye_texture(rng, looks)
        for eye in self.eyes:
            eye.actor.SetTexture(_texture(iris)[0])
        self._albedo = self._skin_colours(rng)
        self._hair_mask = self._hair_cover(rng)
        strands = self._strand_colours(rng)
        self._hair_colours = looks.hair * strands[:, None]
        self._hair_blurred = self._hair_mask
        for _ in range(8):
            self._hair_blurred = self._neighbours @ self._hair_blurred
        # The cap fades out strand by strand, so that no hard edge lies on the forehead.
        opacity = np.clip(3.0 * (self._hair_blurred - 0.30 + 0.5 * (strands - 0.9)), 0, 1)
        self._hair_rgba = np.concatenate([self._hair_colours, 255 * opacity[:, None]], axis=1)
        self._detail *= hairline_strokes(rng, looks, self._hair_roots(rng))
        # Scalp under thin hair takes its colour.
        share = np.clip(self._hair_mask * 1.3, 0, 1)[:, None]
        self._albedo = self._albedo * (1 - 0.85 * share) + self._hair_colours * 0.85 * share

    def _skin_colours(self, rng: np.random.Generator) -> Floats:
        looks, template = self._looks, self._template
        x, y, z = template.T
        colours = np.tile(looks.skin, (len(template), 1))

        def tint(weight: Floats, factor: list[float]) -> None:
            colours[:] = colours * (1 - weight[:, None] + weight[:, None] * np.array(factor, np.float32))

        front = (z > 0.9).astype(np.float32)
        cheeks = np.exp(-(((np.abs(x) - 0.40) / 0.16) ** 2) - ((y - 6.98) / 0.16) ** 2) * front
        nose = np.exp(-((x / 0.12) ** 2) - ((y - 6.98) / 0.10) ** 2) * front
        tint(looks.blush * cheeks, [1.0, 0.82, 0.82])
        tint(0.6 * looks.blush * nose, [1.0, 0.84, 0.84])
        tint(self._ears, [1.02, 0.86, 0.84])
        tint(0.7 * self._lids * front, [0.86, 0.80, 0.80])
        under = np.exp(-(((np.abs(x) - 0.29) / 0.15) ** 2) - ((y - 7.14) / 0.06) ** 2) * front
        tint((0.25 + 0.5 * looks.age) * under, [0.86, 0.80, 0.83])
        lips = np.clip(self._lips * 1.2, 0, 1)[:, None] * front[:, None]
        colours = colours * (1 - lips) + looks.lips * lips
        inside = np.clip((1.36 - z) / 0.4, 0, 1)[:, None]
        gums = np.array([120, 48, 48], np.float32) * (1 - inside) + np.array([28, 8, 8], np.float32) * inside
        colours = np.where(self._is_mouth[:, None], gums, colours)
        colours = np.where(self._is_socket[:, None], looks.skin * np.float32([0.62, 0.42, 0.40]), colours)
        cloth = np.clip(0.5 - (y - 5.62 - 0.25 * np.clip(np.abs(x) - 0.3, 0, 1)) / 0.04, 0, 1)
        colours = colours * (1 - cloth[:, None]) + looks.shirt * cloth[:, None]
        return (colours / PLAIN).astype(np.float32)

    def _hair_cover(self, rng: np.random.Generator) -> Floats:
        """(V,) 0..1: where hair grows, after a hairline that falls from the forehead over the temple to the neck."""
        looks = self._looks
        x, y, z = self._template.T
        azimuth = np.abs(np.arctan2(x, z - 0.35))
        temple_line = looks.hair_line_dm - 0.10 - 0.15 * (1 - looks.temple)
        side_low = looks.hair_low_dm if looks.long_hair else max(looks.hair_low_dm, 6.95)
        knots = np.deg2rad([0, 18, 38, 52, 64, 78, 100, 180])
        lines = [
            looks.hair_line_dm, looks.hair_line_dm + 0.01, temple_line, temple_line - 0.25, 7.32, side_low,
            min(side_low, 6.75), min(side_low, 6.35),
        ]  # fmt: skip
        if looks.long_hair:
            lines[4] = 7.0
        line = np.interp(azimuth, knots, lines)
        table = 0.020 * smooth_noise(rng, (1, 720), 5.0)[0] + 0.010 * smooth_noise(rng, (1, 720), 1.5)[0]
        ragged = table[((np.arctan2(x, z - 0.35) / (2 * np.pi) + 0.5) * 720).astype(int) % 720]
        cover = np.clip(0.5 + (y - line - ragged) / 0.08, 0, 1)
        cover *= 1 - np.clip(self._ears * 1.5, 0, 1)
        if looks.bald:
            cover = np.zeros_like(cover)
        return (cover * (y > 5.3)).astype(np.float32)

    def _hair_roots(self, rng: np.random.Generator) -> Floats:
        """(N, 2) places (x, y in dm) on the hairline where single hairs start."""
        edge = (self._hair_mask > 0.25) & (self._hair_mask < 0.9) & (self._template[:, 2] > 0.55)
        places = self._template[edge & (self._template[:, 1] > 6.9), :2]
        if len(places) == 0:
            return np.zeros((0, 2), np.float32)
        return places[rng.integers(0, len(places), 900)] + rng.normal(0, 0.012, (900, 2)).astype(np.float32)

    def _strand_colours(self, rng: np.random.Generator) -> Floats:
        """(V,) brightness of hair strands that run down from the crown."""
        x, y, z = self._template.T
        # Beside the neck the strands hang straight instead of running round the head.
        round_head = np.clip((y - 6.6) / 0.6, 0, 1)
        azimuth = round_head * np.arctan2(x, z - 0.35) + (1 - round_head) * np.arctan2(x, 0.6)
        table = smooth_noise(rng, (1, 720), 0.8)[0]
        table = (table - table.mean()) / max(float(table.std()), 1e-6)
        column = ((azimuth / (2 * np.pi) + 0.5) * 720).astype(int) % 720
        return np.clip(0.9 + 0.16 * table[column] + 0.05 * rng.standard_normal(len(x)), 0.5, 1.6).astype(np.float32)

    def draw(self, points: Floats, actions: Mapping[str, float], view: View) -> NDArray[np.uint8]:
        """Draw a head: points (V, 3) from `HeadModel.move` -> (size, size, 4) RGBA, background transparent."""
        self._light(view)
        turn = _rotation(view.turn_deg)
        normals = vertex_normals(points, self._faces)
        shade = self._shade(points, normals)
        hair_points = self._comb(points, normals)
        hair_normals = vertex_normals(hair_points, self._hair_faces) @ turn.T
        offset = np.array([*view.shift_dm, 0.0], np.float32)
        scale = np.float32(view.zoom)

        def place(p: Floats) -> Floats:
            return ((p - PIVOT_DM) @ turn.T + PIVOT_DM) * scale + offset

        points = points.copy()
        points[self._upper_teeth] += TEETH_SHIFT_DM
        placed, turned = place(points), normals @ turn.T
        self.skin.place(placed, turned, (self._albedo * shade[:, None])[self.skin.vertices])
        for eye in self.eyes:
            eye.place(placed, turned, np.full((len(eye.vertices), 3), 255.0))
        # Light hardly reaches into the mouth: teeth and tongue darken towards the back.
        for piece, colour in ((self.teeth, (226, 214, 196)), (self.tongue, (168, 84, 84))):
            depth = np.clip((self._template[piece.vertices, 2] - 1.05) / 0.42, 0.12, 0.92)[:, None]
            piece.place(placed, turned, np.array(colour) * depth)
        self.lashes.place(placed, turned, np.full((len(self.lashes.vertices), 3), 18.0))
        self.hair.place(place(hair_points), hair_normals, self._hair_rgba[self.hair.vertices])
        self.hair.actor.SetVisibility(not self._looks.bald)
        self._wrinkle(actions)
        self._grab.Modified()
        self._grab.Update()
        image = self._grab.GetOutput()
        width, height, _ = image.GetDimensions()
        return vtk_to_numpy(image.GetPointData().GetScalars()).reshape(height, width, 4)[::-1].copy()

    def _shade(self, points: Floats, normals: Floats) -> Floats:
        """(V,) factor that darkens hollows: folds beside the nose, corners of eyes and mouth, under the lip."""
        factor = np.ones(len(points), np.float32)
        smooth = points
        for steps, gain in ((3, 9.0), (7, 6.0), (10, 5.0)):
            for _ in range(steps):
                smooth = self._neighbours @ smooth
            hollow = np.sum((smooth - points) * normals, axis=1)
            factor *= 1.0 - np.clip(gain * hollow, -0.06, 0.4)
        return np.clip(factor, 0.35, 1.08)

    def _comb(self, points: Floats, normals: Floats) -> Floats:
        mask = self._hair_blurred
        lift = self._looks.hair_thick_dm * np.clip(mask - 0.12, 0, 1)
        combed = points + normals * lift[:, None]
        if self._looks.long_hair:
            # Long hair hangs beside the jaw and neck instead of lying on them.
            template = self._template
            low = np.clip((7.4 - template[:, 1]) / 0.8, 0, 1) * np.clip(mask - 0.2, 0, 1)
            combed[:, 0] += (np.sign(template[:, 0]) * 0.22 * low).astype(np.float32)
            combed[:, 2] += (0.10 * low).astype(np.float32)
        # Bare skin sinks so that the cap does not lie on the face.
        combed -= normals * (0.03 * np.clip(1 - 8 * np.clip(mask - 0.12, 0, 1), 0, 1))[:, None]
        return combed.astype(np.float32)

    def _wrinkle(self, actions: Mapping[str, float]) -> None:
        dark = np.zeros(self._detail.shape[:2], np.float32)
        for name, depth in creases(actions, self._looks.age).items():
            if depth > 0.02:
                dark += depth * self._creases[name]
        factor = 1.0 - 0.42 * np.clip(dark, 0, 1.2)[..., None] * np.array([0.8, 1.0, 1.0], np.float32)
        # A crease has a lit edge below its dark line.
        lit = cv2.warpAffine(dark, np.float32([[1, 0, 0], [0, 1, ROWS / 220]]), dark.shape[::-1])
        factor += 0.10 * np.clip(lit - dark, 0, 1)[..., None]
        _fill(self._skin_image, np.clip(self._detail * factor * 255, 0, 255).astype(np.uint8))

    def _light(self, view: View) -> None:
        def towards(azimuth: float, elevation: float) -> tuple[float, float, float]:
            a, e = np.deg2rad([azimuth, elevation])
            return (
                float(10 * np.sin(a) * np.cos(e)),
                float(10 * np.sin(e)),
                float(10 * np.cos(a) * np.cos(e)),
            )

        azimuth, elevation = view.key_deg
        warm = np.array([1.0, 0.95, 0.88]) if view.warmth > 0 else np.array([0.9, 0.96, 1.0])
        colour = 1.0 + (warm - 1.0) * abs(view.warmth)
        key, fill, front = self.lights
        key.position, key.intensity, key.diffuse_color = (
            towards(azimuth, elevation),
            view.key,
            colour.tolist(),
        )
        fill.position, fill.intensity = towards(-azimuth * 0.9 - np.sign(azimuth + 1e-6) * 25, 5.0), view.fill
        front.position, front.intensity = towards(0.0, 25.0), view.ambient
        fill.specular_color = front.specular_color = (0.0, 0.0, 0.0)
        for light in self.lights:
            light.focal_point = (0.0, 0.0, 0.0)


def draw_background(rng: np.random.Generator, size: int) -> Floats:
    """(size, size, 3) wall, window light or out-of-focus shapes, 0..255."""
    base = rng.uniform(40, 215) + rng.normal(0, 9, 3)
    other = base + rng.normal(0, 35) + rng.normal(0, 9, 3)
    angle = rng.uniform(0, 2 * np.pi)
    axis = np.linspace(-1, 1, size, dtype=np.float32)
    x, y = np.meshgrid(axis, axis)
    ramp = np.clip(0.5 + 0.5 * (x * np.cos(angle) + y * np.sin(angle)), 0, 1)[..., None]
    picture = (base * (1 - ramp) + other * ramp).astype(np.float32)
    for _ in range(int(rng.choice([0, 0, 2, 5, 9]))):
        left, top = rng.uniform(-0.2, 1.0, 2) * size
        width, height = rng.uniform(0.08, 0.6, 2) * size
        shade = (base + rng.normal(0, 40) + rng.normal(0, 12, 3)).tolist()
        cv2.rectangle(picture, (int(left), int(top)), (int(left + width), int(top + height)), shade, -1)
    picture = cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.02, 0.08) * size)
    return picture + 3.0 * smooth_noise(rng, (size, size), size / 30)[..., None]


def develop(rgba: NDArray[np.uint8], background: Floats, rng: np.random.Generator, exposure: float, size: int,
            grain: float, saturation: float) -> NDArray[np.uint8]:  # fmt: skip
    """Put the drawn head before a background and add what a camera adds: (size, size, 3) RGB.

    Args:
        rgba: Drawing, larger than ``size``.
        background: (H, W, 3) of the drawing's size.
        rng: Source of the grain.
        exposure: Factor on the brightness.
        size: Side of the result in pixels.
        grain: Spread of the sensor noise in grey levels.
        saturation: 0 grey, 1 as drawn.
    """
    alpha = rgba[..., 3:].astype(np.float32) / 255.0
    colour = rgba[..., :3].astype(np.float32)
    picture = colour * alpha + background * (1 - alpha)
    picture = cv2.resize(picture, (size, size), interpolation=cv2.INTER_AREA)
    picture = cv2.GaussianBlur(picture, (0, 0), 0.45)
    grey = picture.mean(axis=2, keepdims=True)
    picture = (grey + saturation * (picture - grey)) * exposure
    picture += cv2.GaussianBlur(rng.standard_normal(picture.shape).astype(np.float32), (0, 0), 0.6) * grain * 1.6
    return np.clip(picture, 0, 255).astype(np.uint8)
