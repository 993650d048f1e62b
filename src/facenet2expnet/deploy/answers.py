"""What the service answers, as JSON."""

from __future__ import annotations

import math
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from facenet2expnet.deploy.uploads import Refused
from facenet2expnet.predict.results import FaceResult, FrameResult


class Answer(BaseModel):
    """Base of all answers."""

    model_config = ConfigDict(extra="forbid")


class ErrorBody(Answer):
    """Why something was not taken."""

    code: str = Field(description="For programs.")
    message: str = Field(description="For people.")


class ErrorAnswer(Answer):
    """A request that was not taken."""

    error: ErrorBody


class Expression(Answer):
    """The expression of one face."""

    label: str = Field(description="The most probable class.")
    probability: float = Field(ge=0, le=1, description="Of that class.")
    probabilities: dict[str, float] = Field(description="Of every class; they sum to 1.")


class FaceAnswer(Expression):
    """A face of a picture."""

    box: list[float] = Field(
        min_length=4, max_length=4, description="Left, top, right, bottom in pixels; may reach over the edge."
    )
    score: float | None = Field(description="The detector's confidence.")


class PictureAnswer(Answer):
    """The faces of a picture, the largest first; or why it was not read."""

    name: str = Field(description="The file's name, as the client gave it.")
    width: int | None = Field(default=None, description="In pixels, after turning the picture by its EXIF orientation.")
    height: int | None = None
    faces: list[FaceAnswer] = []
    error: ErrorBody | None = None


class FacesAnswer(Answer):
    """The pictures of a request, in its order."""

    pictures: list[PictureAnswer]


class CropAnswer(Answer):
    """The expression of a cut-out face; or why it was not read."""

    name: str
    expression: Expression | None = None
    error: ErrorBody | None = None


class CropsAnswer(Answer):
    """The cut-out faces of a request, in its order."""

    crops: list[CropAnswer]


class ModelAnswer(Answer):
    """The model, and what the service takes."""

    classes: list[str]
    contract: dict[str, Any] = Field(description="How a picture becomes the network's input.")
    details: dict[str, Any] = Field(description="What was saved with it: method, licence, use, results, metrics, date.")
    version: str = Field(description="Of facenet2expnet.")
    limits: dict[str, float]


class HealthAnswer(Answer):
    """Whether the service takes requests."""

    status: str


def error_body(refused: Refused) -> ErrorBody:
    """The JSON of a refusal."""
    return ErrorBody(code=refused.code, message=refused.message)


def to_expression(face: FaceResult, classes: tuple[str, ...]) -> Expression:
    """The JSON of a face's probabilities, with six digits."""
    values = [round(float(value), 6) for value in face.probabilities]
    best = int(face.probabilities.argmax())
    return Expression(
        label=classes[best], probability=values[best], probabilities=dict(zip(classes, values, strict=True))
    )


def to_picture(result: FrameResult) -> PictureAnswer:
    """The JSON of a picture that was read; its name is filled in later."""
    assert result.pixels is not None
    faces = [
        FaceAnswer(
            **to_expression(face, result.classes).model_dump(),
            box=[round(float(value), 2) for value in face.box_xyxy_px],
            score=None if math.isnan(face.detection_score) else round(float(face.detection_score), 6),
        )
        for face in result.faces
    ]
    height, width = result.pixels.shape[:2]
    return PictureAnswer(name="", width=width, height=height, faces=faces)
