"""How good a model is: streamed losses, and BLEU and chrF that say how they were computed."""

from ciyuan.evaluation.evaluate import dev_loss, evaluate_translator
from ciyuan.evaluation.translation import Row, Scores, evaluate_translation

__all__ = ["Row", "Scores", "dev_loss", "evaluate_translation", "evaluate_translator"]
