from __future__ import annotations

import pytest

from ciyuan.config import Sheet, build
from ciyuan.errors import RecipeError
from ciyuan.generation import GenerationSettings


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"beam": 4, "temperature": 0.5}, "does not draw"),
        ({"beam": 4, "top_k": 5}, "does not draw"),
        ({"n_best": 2}, "n_best is 2"),
        ({"n_best": 5, "beam": 4}, "n_best is 5"),
        ({"beam": 4, "beam_groups": 3}, "equal groups"),
        ({"beam": 4, "diversity_penalty": 0.5}, "beam_groups"),
        ({"stop": ("a", "")}, "empty"),
        ({"top_k": -1}, "top_k"),
        ({"topk": 1}, "top_k"),
    ],
)
def test_what_does_not_fit_together_is_refused_in_words(options, said):
    with pytest.raises(RecipeError, match=said):
        build(GenerationSettings, Sheet("generate", options, {}))


def test_a_filter_means_drawing_and_a_temperature_of_0_means_greedy():
    assert GenerationSettings().heat == 0
    for option in ({"top_k": 5}, {"top_p": 0.9}, {"min_p": 0.1}):
        assert GenerationSettings(**option).heat == 1
        assert GenerationSettings(**option, temperature=0).heat == 0
        assert GenerationSettings(**option, temperature=0.7).heat == 0.7
    assert GenerationSettings(temperature=1, n_best=3).n_best == 3
