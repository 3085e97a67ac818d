"""The tasks, by the name that a recipe gives them: one file and one line each."""

from ciyuan.recipe.settings import TaskName
from ciyuan.recipe.tasks.answer import PointAtAnswer, WriteAnswer
from ciyuan.recipe.tasks.causal_lm import CausalLanguageModel
from ciyuan.recipe.tasks.chat import Chat
from ciyuan.recipe.tasks.classify import Classify
from ciyuan.recipe.tasks.denoise import Denoise
from ciyuan.recipe.tasks.masked_lm import MaskedLanguageModel
from ciyuan.recipe.tasks.task import Materials, Shown, Task
from ciyuan.recipe.tasks.translate import Translate

TASKS: dict[TaskName, Task] = {
    "translate": Translate(),
    "causal-lm": CausalLanguageModel(),
    "masked-lm": MaskedLanguageModel(),
    "denoise": Denoise(),
    "classify": Classify(),
    "answer": WriteAnswer(),
    "chat": Chat(),
}

__all__ = ["TASKS", "Materials", "Shown", "Task", "task_of"]


def task_of(name: TaskName, family: str) -> Task:
    """The task of a recipe; an encoder points at its answers, and the other families write them."""
    return PointAtAnswer() if name == "answer" and family == "encoder" else TASKS[name]
