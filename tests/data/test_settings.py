from __future__ import annotations

import pytest
from pydantic import ValidationError

from ciyuan.data import DataSettings


def test_one_file_is_a_list_of_one_and_a_number_may_be_text() -> None:
    settings = DataSettings.model_validate({"train": "a.tsv", "dev": "300"})
    assert (settings.train, settings.dev) == (("a.tsv",), 300)
    assert DataSettings(dev="dev.tsv").dev == "dev.tsv"
    assert DataSettings(dev=("d.en", "d.zh")).dev == ("d.en", "d.zh")
    assert DataSettings(dev=0).dev is None


@pytest.mark.parametrize("wrong", [{"trian": ["a"]}, {"dev": -1}, {"max_length": 0}, {"too_long": "cut"}])
def test_what_is_not_an_option_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        DataSettings.model_validate(wrong)
