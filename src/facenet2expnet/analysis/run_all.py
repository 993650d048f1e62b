"""Every analysis of a run, with the defaults."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from facenet2expnet.analysis.compare_features import compare_features
from facenet2expnet.analysis.confusion import confusion, read_predictions
from facenet2expnet.analysis.deepdraw import deepdraw
from facenet2expnet.analysis.inputs import EXPRESSION, FINE_TUNED, PRE_TRAINED, load_inputs
from facenet2expnet.analysis.mean_faces import mean_faces
from facenet2expnet.analysis.neurons import neurons
from facenet2expnet.analysis.result import AnalysisResult
from facenet2expnet.analysis.saliency import saliency
from facenet2expnet.analysis.similarity import stage1_similarity


def run_all(run: Path, *, fold: str = "", seed: int = 0, device: str = "cpu") -> Iterator[AnalysisResult]:
    """Compute every analysis that a run's models allow, in the paper's order.

    Neurons, mean faces and DeepDraw look at all images; saliency and features at 2,000 of the fold's test part.

    Raises:
        UserError: If the folder is not a run, or a model is damaged.
    """
    inputs = load_inputs(run, fold=fold, seed=seed, device=device)
    tested = load_inputs(run, fold=fold, part="test", images=2000, seed=seed, device=device)
    nets = set(inputs.nets)
    if FINE_TUNED in nets:
        yield neurons(inputs.only(PRE_TRAINED, FINE_TUNED))
    if EXPRESSION in nets:
        yield mean_faces(inputs.only(EXPRESSION))
    if nets & {FINE_TUNED, EXPRESSION}:
        yield deepdraw(inputs.only(FINE_TUNED, EXPRESSION))
    if (run / "predictions.parquet").is_file() and len(predictions := read_predictions(run)):
        yield confusion(predictions)
    if EXPRESSION in nets:
        yield saliency(tested.only(EXPRESSION))
    yield compare_features(tested)
    if {EXPRESSION, inputs.teacher} <= nets:
        yield stage1_similarity(tested)
