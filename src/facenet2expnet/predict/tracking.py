"""Who is who in a video: boxes are followed from frame to frame, and joined over gaps and cuts by the face net."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from facenet2expnet.crop import CropContract, Framing
from facenet2expnet.errors import UserError
from facenet2expnet.faces.align import crop_matrix, similarity, warp
from facenet2expnet.faces.detect import Face

FACE_NET = "dlib-resnet29"
CHIP_POINTS = {0: (0.317, 0.311), 1: (0.670, 0.311), 3: (0.336, 0.687), 4: (0.651, 0.687)}
"""Where dlib's face chip has eyes and mouth corners, as fractions of its side: its mean face with a padding of 0.25."""

SAME_PERSON = 0.5
"""Descriptors of one person are nearer than this. Of 278 press photographs of 70 people, 75 % of the pairs of one
person are, and 0.1 % of the pairs of two; a track is asked several times."""

STAY = 0.1
"""A face that follows its own box has to be so much nearer to another person to become that person."""

MIN_IOU = 0.2
"""Boxes of one track overlap by this much, intersection over union."""

TOUCHING_IOU = 0.05
"""Boxes that overlap by more may be exchanged when people cross; the face net is asked."""

MAX_GAP_S = 0.6
"""A track that was not seen for longer is over; only its descriptor can bring it back."""

GAP_STEPS = 2.5
"""Where frames are further apart than `MAX_GAP_S` allows for, a track lives for so many steps between frames."""

NEAR_SIDES = 1.0
"""A track whose speed is not known yet takes a face within this distance of its centre, in sides of its box."""

CUT = 30.0
"""Mean difference, in grey levels, of two frames' small pictures at a cut."""

SMALLEST_PX = 24
"""A smaller face has no descriptor that could be trusted."""

ASK_AFTER_S = (0.0, 0.1, 0.25, 0.5, 1.0, 2.0)
"""When, in the life of a track, its face is described; at cuts and crossings besides."""

MOST_PEOPLE = 1000
"""The people who are remembered; the one who was not seen for longest is forgotten first."""


class Describer:
    """The face net that tells people apart: descriptors of 128 numbers.

    Raises:
        UserError: If the face net's package is not installed.
        ImportError: If PyTorch is not installed.
    """

    def __init__(self) -> None:
        from facenet2expnet.nets import face

        self.net = face.load(FACE_NET)

    def __call__(self, pixels: np.ndarray, faces: Sequence[Face], detector: str) -> np.ndarray:
        """Describe faces (H, W, 3) uint8 RGB -> (N, 128) float32; `detector` is the one that found the boxes."""
        import torch

        side = self.net.info.input_px
        chips = np.stack([warp(pixels, _chip_matrix(face, detector, side), side) for face in faces])
        with torch.inference_mode():
            inputs = torch.from_numpy(chips).permute(0, 3, 1, 2)
            found: np.ndarray = self.net(inputs, ["descriptor"])["descriptor"].numpy()
        return found


def load_describer() -> Describer | None:
    """Return the describer, or None if its package or PyTorch is not installed."""
    try:
        return Describer()
    except (UserError, ImportError):
        return None


@dataclass(eq=False)
class _Person:
    number: int
    begin_s: float
    seen_s: float
    mean: np.ndarray | None = None
    count: int = 0

    def learn(self, descriptor: np.ndarray) -> None:
        self.count = min(self.count + 1, 20)
        self.mean = descriptor if self.mean is None else self.mean + (descriptor - self.mean) / self.count


@dataclass(eq=False)
class _Track:
    person: _Person
    box: np.ndarray
    begin_s: float
    seen_s: float
    velocity: np.ndarray | None = None
    asked: int = 0
    crossed: bool = False

    def predicted(self, time_s: float) -> np.ndarray:
        return self.box if self.velocity is None else self.box + np.tile(self.velocity * (time_s - self.seen_s), 2)

    def move(self, box: np.ndarray, time_s: float) -> None:
        if time_s > self.seen_s:
            step = ((box[:2] + box[2:]) - (self.box[:2] + self.box[2:])) / 2 / (time_s - self.seen_s)
            self.velocity = step / 2 if self.velocity is None else (self.velocity + step) / 2
        self.box, self.seen_s = box, time_s
        self.person.seen_s = time_s


class Tracker:
    """Numbers the people of one video, frame after frame.

    Boxes are assigned to tracks by their overlap (Hungarian method), at the place that each track's speed predicts;
    a track that was seen once has no speed, and takes the nearest box that is left.
    When a face is new, after a crossing, and now and then, the face net describes it, and the nearest known person
    takes it. So a person who comes back after a gap or a cut has the same number. Memory does not grow with the video.

    Args:
        describe: the face net; None follows boxes only.
        detector: the detector that finds the boxes.
    """

    def __init__(self, describe: Describer | None, detector: str) -> None:
        self.describe, self.detector = describe, detector
        self._tracks: list[_Track] = []
        self._people: list[_Person] = []
        self._next = 1
        self._thumbnail: np.ndarray | None = None
        self._before_s: float | None = None
        self._steps_s: deque[float] = deque(maxlen=8)

    def update(self, pixels: np.ndarray, time_s: float, faces: Sequence[Face]) -> list[int]:
        """Return the number of the person of each face, from 1.

        Args:
            pixels: (H, W, 3) uint8 RGB, the next frame.
            time_s: its time.
            faces: found in it.
        """
        if self._is_cut(pixels):
            self._tracks = []
        longest_s = self._longest_gap_s(time_s)
        self._tracks = [track for track in self._tracks if time_s - track.seen_s <= longest_s]
        boxes = np.array([face.box_xyxy_px for face in faces]).reshape(-1, 4)
        overlaps = _overlaps(np.array([t.predicted(time_s) for t in self._tracks]).reshape(-1, 4), boxes)
        touching = self._mark_crossings(overlaps, boxes)
        matched: dict[int, _Track] = {}
        for row, column in zip(*_assign(-overlaps), strict=True):
            if overlaps[row, column] >= MIN_IOU:
                matched[int(column)] = self._tracks[row]
        matched |= self._match_near(boxes, matched)
        people = self._identify(pixels, time_s, faces, matched, touching)
        tracks = []
        for column, (box, person) in enumerate(zip(boxes, people, strict=True)):
            track = matched.get(column)
            if track is None or track.person is not person:
                old = track
                track = _Track(person, box, time_s, time_s)
                track.crossed = old.crossed if old else False
            track.move(box, time_s)
            tracks.append(track)
        taken = {id(person) for person in people}
        unseen = [t for t in self._tracks if t not in tracks and id(t.person) not in taken]
        self._tracks = tracks + unseen
        return [person.number for person in people]

    def _longest_gap_s(self, time_s: float) -> float:
        """The time after which a track is over, by the shortest of the last steps between frames."""
        if self._before_s is not None and time_s > self._before_s:
            self._steps_s.append(time_s - self._before_s)
        self._before_s = time_s
        return max(MAX_GAP_S, GAP_STEPS * min(self._steps_s, default=0.0))

    def _match_near(self, boxes: np.ndarray, matched: dict[int, _Track]) -> dict[int, _Track]:
        """Match the boxes that are left to tracks without a speed, by the distance of their centres."""
        tracks = [t for t in self._tracks if t.velocity is None and all(t is not one for one in matched.values())]
        columns = [column for column in range(len(boxes)) if column not in matched]
        if not tracks or not columns:
            return {}
        old, new = np.array([track.box for track in tracks]), boxes[columns]
        centres = [(each[:, :2] + each[:, 2:]) / 2 for each in (old, new)]
        sides = [(each[:, 2:] - each[:, :2]).max(axis=1) for each in (old, new)]
        distances = np.linalg.norm(centres[0][:, None] - centres[1][None], axis=2) / sides[0][:, None]
        ratios = sides[1][None] / sides[0][:, None]
        distances[(ratios < 0.5) | (ratios > 2)] = np.inf
        costs = np.minimum(distances, 2 * NEAR_SIDES)
        return {
            columns[column]: tracks[row]
            for row, column in zip(*_assign(costs), strict=True)
            if costs[row, column] <= NEAR_SIDES
        }

    def _is_cut(self, pixels: np.ndarray) -> bool:
        small = cv2.resize(pixels[:: max(1, len(pixels) // 90)], (32, 18), interpolation=cv2.INTER_AREA)
        thumbnail = small.astype(np.float32).mean(axis=2)
        before, self._thumbnail = self._thumbnail, thumbnail
        return before is not None and float(np.abs(thumbnail - before).mean()) > CUT

    def _mark_crossings(self, overlaps: np.ndarray, boxes: np.ndarray) -> set[int]:
        """Find the faces that may be of more than one track; mark those tracks as crossed until they are asked."""
        near = overlaps > TOUCHING_IOU
        columns = near.sum(axis=0) > 1
        rows = near.sum(axis=1) > 1
        among = _overlaps(boxes, boxes) - np.eye(len(boxes)) if len(boxes) else np.zeros((0, 0))
        for row, track in enumerate(self._tracks):
            if rows[row] or near[row, columns].any():
                track.crossed = True
        crowded = among.max(axis=1, initial=0) > TOUCHING_IOU if len(boxes) else np.zeros(0, bool)
        return {int(c) for c in np.flatnonzero(columns | crowded)}

    def _identify(
        self,
        pixels: np.ndarray,
        time_s: float,
        faces: Sequence[Face],
        matched: dict[int, _Track],
        touching: set[int],
    ) -> list[_Person]:
        """Choose the person of every face: its track's own, a known one, or a new one."""
        asked = []
        for column, face in enumerate(faces):
            track = matched.get(column)
            due = track is not None and track.asked < len(ASK_AFTER_S)
            due = due and time_s - track.begin_s >= ASK_AFTER_S[track.asked]  # type: ignore[union-attr]
            large = float(min(face.box_xyxy_px[2:] - face.box_xyxy_px[:2])) >= SMALLEST_PX
            if self.describe and large and (track is None or track.crossed or due):
                asked.append(column)
        people: list[_Person | None] = [matched[c].person if c in matched else None for c in range(len(faces))]
        if asked and self.describe:
            descriptors = self.describe(pixels, [faces[column] for column in asked], self.detector)
            kept = {id(people[c]) for c in matched if c not in asked}
            known = [person for person in self._people if person.mean is not None and id(person) not in kept]
            chosen = self._nearest(descriptors, [people[c] for c in asked], known, time_s)
            for column, person, descriptor in zip(asked, chosen, descriptors, strict=True):
                track = matched.get(column)
                people[column] = person
                if track is not None and column not in touching:
                    track.asked += 1
                    track.crossed = False
                if person is not None and column not in touching:
                    person.learn(descriptor)
        found = []
        for column, person in enumerate(people):
            if person is None:
                person = self._new_person(time_s)
                if column in asked:
                    person.learn(descriptors[asked.index(column)])
            found.append(person)
        return found

    def _nearest(
        self, descriptors: np.ndarray, own: Sequence[_Person | None], known: Sequence[_Person], time_s: float
    ) -> list[_Person | None]:
        """Assign described faces to known people, one to one; a face keeps its own person unless another is nearer."""
        if not known:
            return list(own)
        means = np.array([person.mean for person in known])
        distances = np.linalg.norm(descriptors[:, None] - means[None], axis=2)
        for row, person in enumerate(own):
            for column, other in enumerate(known):
                if other is person:
                    distances[row, column] -= STAY
        chosen: list[_Person | None] = list(own)
        for row, column in zip(*_assign(np.minimum(distances, 2 * SAME_PERSON)), strict=True):
            if distances[row, column] < SAME_PERSON:
                chosen[row] = known[column]
        for row, person in enumerate(chosen):  # nobody is twice in one frame: the face that looks like them stays
            twice = person is not None and any(person is other for r, other in enumerate(chosen) if r != row)
            if twice and person is own[row]:
                chosen[row] = None
        self._forget_replaced(own, chosen)
        return chosen

    def _forget_replaced(self, own: Sequence[_Person | None], chosen: Sequence[_Person | None]) -> None:
        """Forget a person who was new with this track and turned out to be a known one."""
        for before, after in zip(own, chosen, strict=True):
            if before is None or after is None or before.begin_s <= after.begin_s:
                continue
            if before.seen_s - before.begin_s <= ASK_AFTER_S[-1] and not any(before is person for person in chosen):
                self._people = [person for person in self._people if person is not before]

    def _new_person(self, time_s: float) -> _Person:
        person = _Person(self._next, time_s, time_s)
        self._next += 1
        self._people.append(person)
        if len(self._people) > MOST_PEOPLE:
            self._people.remove(min(self._people, key=lambda one: one.seen_s))
        return person


def _chip_matrix(face: Face, detector: str, side: int) -> np.ndarray:
    """(2, 3) matrix from the picture to dlib's face chip, by the landmarks, or else by the box."""
    if face.points_px is None:
        framing = Framing("mtcnn", (0.5, 0.42), 1.01)  # medians over 120 press photographs
        return crop_matrix(face, CropContract(detector=detector, stored_px=side, crop_px=side, framing=framing))
    target = np.array(list(CHIP_POINTS.values())) * side
    return similarity(face.points_px[list(CHIP_POINTS)], target)


def _assign(costs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the cheapest assignment, one to one (Hungarian method)."""
    from scipy.optimize import linear_sum_assignment

    rows, columns = linear_sum_assignment(costs)
    return rows, columns


def _overlaps(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Intersection over union of boxes (N, 4) and (M, 4) -> (N, M)."""
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    shared = (high - low).clip(min=0).prod(axis=2)
    areas = [(boxes[:, 2:] - boxes[:, :2]).clip(min=0).prod(axis=1) for boxes in (first, second)]
    return shared / np.maximum(areas[0][:, None] + areas[1][None] - shared, 1e-9)


class Smoother:
    """Exponential average of each person's log-probabilities over time.

    Args:
        time_constant_s: after a change, 63 % of it show after this time.
    """

    def __init__(self, time_constant_s: float) -> None:
        if not time_constant_s > 0:
            raise UserError(f"smooth_s is {time_constant_s}, expected more than 0")
        self.time_constant_s = time_constant_s
        self._states: dict[int, tuple[float, np.ndarray]] = {}

    def update(self, track: int, time_s: float, probabilities: np.ndarray) -> np.ndarray:
        """Return the averaged probabilities (K,) of a person at a time, after the new ones."""
        logs = np.log(np.maximum(probabilities.astype(np.float64), 1e-6))
        if track in self._states:
            before_s, state = self._states[track]
            logs = state + (1 - np.exp(-max(time_s - before_s, 0.0) / self.time_constant_s)) * (logs - state)
        self._states[track] = (time_s, logs)
        if len(self._states) > MOST_PEOPLE:
            del self._states[min(self._states, key=lambda one: self._states[one][0])]
        powers = np.exp(logs - logs.max())
        return (powers / powers.sum()).astype(np.float32)
