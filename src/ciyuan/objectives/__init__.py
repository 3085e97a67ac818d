"""What the model is asked: an objective collates examples into a batch and scores the answers."""

from ciyuan.objectives.objective import Objective
from ciyuan.objectives.seq2seq import Seq2Seq

__all__ = ["Objective", "Seq2Seq"]
