"""What a model says of texts: labels, answers, vectors, and what could fill their blanks."""

from ciyuan.prediction.answer import Answer, answer, answer_spans, write_answers
from ciyuan.prediction.classify import Classified, classify
from ciyuan.prediction.embed import Pooling, embed
from ciyuan.prediction.fill import fill
from ciyuan.prediction.look import Look, look

__all__ = [
    "Answer",
    "Classified",
    "Look",
    "Pooling",
    "answer",
    "answer_spans",
    "classify",
    "embed",
    "fill",
    "look",
    "write_answers",
]
