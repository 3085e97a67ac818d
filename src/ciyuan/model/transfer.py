"""From one task to the next: the stacks are taken over, and what stands on top is new."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ciyuan.errors import RecipeError
from ciyuan.model.config import Initialisation, ModelConfig
from ciyuan.model.initialisation import initialise
from ciyuan.model.transformer import Transformer

FREE = frozenset({
    "head", "n_labels", "head_bias", "head_transform", "tied", "logit_scale", "logit_soft_cap", "pooler",
    "pooler_activation", "next_sentence", "n_token_types", "dropout", "attention_dropout", "activation_dropout", "pad_id", "bos_id",
    "eos_id", "start_id", "first_id", "source_head", "source_tail",
})  # fmt: skip
"""The fields that may change, for none of them changes the stacks."""


@dataclass(frozen=True)
class Transferred:
    """new: the parameters of `model` that were initialised. unused: those of the given model that found no place."""

    model: Transformer
    new: tuple[str, ...]
    unused: tuple[str, ...]


@torch.no_grad()
def transfer(model: Transformer, config: ModelConfig, *, scheme: Initialisation, seed: int) -> Transferred:
    """A new model of `config` with every parameter of the same name and shape, the others initialised; `model` is left as it is.

    The transform before a masked language model's head goes on as that of a classifier's or a span's (Warner et al. 2024).
    Raises RecipeError, naming the field, where the stacks are not the same.
    """
    _check_stacks(model.config, config)
    with torch.random.fork_rng(devices=[]):  # initialise draws from a generator of its own
        made = Transformer(config)
    initialise(made, scheme=scheme, seed=seed)
    made = made.to(model.embedding.weight).train(model.training)
    given = dict(model.named_parameters())
    new: list[str] = []
    taken: set[str] = set()
    for name, parameter in made.named_parameters():
        source = next((each for each in _origins(name) if each in given), None)
        if source is None or given[source].shape != parameter.shape:
            new.append(name)
        else:
            parameter.copy_(given[source])
            taken.add(source)
    return Transferred(made, tuple(new), tuple(name for name in given if name not in taken))


def _origins(name: str) -> list[str]:
    """The names under which a parameter may be known to the given model, the likeliest first."""
    top, _, rest = name.partition(".")
    return [name, f"head.{rest}"] if top in ("classifier", "span") and rest.startswith("transform.") else [name]


def _check_stacks(given: ModelConfig, wanted: ModelConfig) -> None:
    free = FREE if wanted.positions == "learned" else FREE | {"max_positions"}
    for name in ModelConfig.model_fields:
        value, own = getattr(wanted, name), getattr(given, name)
        if own != value and name not in free:
            raise RecipeError(
                f"model.{name} is {value}, and {own} in the given model",
                fix=f"leave model.{name} out: the model keeps its stacks",
            )
