"""The one Transformer: its settings, its parts, its initialisation. Knows torch, nothing else."""

from ciyuan.model.cache import Cache
from ciyuan.model.config import PRESETS, Family, ModelConfig, ModelSettings
from ciyuan.model.initialisation import initialise
from ciyuan.model.transformer import Transformer

__all__ = ["PRESETS", "Cache", "Family", "ModelConfig", "ModelSettings", "Transformer", "initialise"]
