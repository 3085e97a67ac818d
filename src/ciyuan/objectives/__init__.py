"""What the model is asked: an objective collates examples into a batch and scores the answers."""

from ciyuan.objectives.alignment import Lexicon
from ciyuan.objectives.objective import Objective
from ciyuan.objectives.seq2seq import Seq2Seq
from ciyuan.objectives.warm_start import can_warm_start, warm_start

__all__ = ["Lexicon", "Objective", "Seq2Seq", "can_warm_start", "warm_start"]
