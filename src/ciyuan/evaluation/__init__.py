"""How good a model is: streamed losses, scores that say how they were computed, and whether a difference is real."""

from ciyuan.evaluation.answers import evaluate_answers
from ciyuan.evaluation.compare import Comparison, compare
from ciyuan.evaluation.evaluate import dev_loss, evaluate_answerer, evaluate_classifier, evaluate_translator
from ciyuan.evaluation.labels import evaluate_labels
from ciyuan.evaluation.language import evaluate_language_model, evaluate_masked
from ciyuan.evaluation.scores import ConfusionMatrix, LabelScore, Row, Scores
from ciyuan.evaluation.translation import evaluate_translation

__all__ = [
    "Comparison",
    "ConfusionMatrix",
    "LabelScore",
    "Row",
    "Scores",
    "compare",
    "dev_loss",
    "evaluate_answerer",
    "evaluate_answers",
    "evaluate_classifier",
    "evaluate_labels",
    "evaluate_language_model",
    "evaluate_masked",
    "evaluate_translation",
    "evaluate_translator",
]
