"""What a recipe changes in examples each time they are seen."""

from __future__ import annotations

from ciyuan.errors import RecipeError
from ciyuan.objectives.bpe_dropout import BpeDropout, halves
from ciyuan.recipe.settings import Recipe
from ciyuan.recipe.tasks import Materials
from ciyuan.training.source import Change


def change_of(materials: Materials) -> Change | None:
    """None where nothing is changed. Raises RecipeError where the tokeniser does not allow it."""
    recipe = materials.recipe
    if recipe.tokenizer.dropout == 0:
        return None
    return BpeDropout(
        halves(materials.tokenizer), p=recipe.tokenizer.dropout, seed=recipe.training.seed,
        room=min(materials.config.max_positions, 2 * recipe.data.max_length),
    )  # fmt: skip


def check_changes(recipe: Recipe) -> None:
    """Raises RecipeError where the task has nothing that could be changed so."""
    running_text = recipe.task == "causal-lm" or (recipe.task == "masked-lm" and not recipe.objective.next_sentence)
    if recipe.tokenizer.dropout and not (running_text or recipe.task in ("translate", "denoise")):
        raise RecipeError(
            f"tokenizer.dropout is for translating and for learning a language, and the task is {recipe.task}",
            fix="leave it out",
        )
    if recipe.training.length_ramp and not running_text:
        raise RecipeError(
            f"training.length_ramp cuts rows of running text, and the task {recipe.task} has none"
            + (" with objective.next_sentence" if recipe.task == "masked-lm" else ""),
            fix="leave it out",
        )
    if recipe.objective.mask_rate_end is not None and recipe.task != "masked-lm":
        raise RecipeError(f"objective.mask_rate_end is for masked-lm, and the task is {recipe.task}", fix="leave it out")
