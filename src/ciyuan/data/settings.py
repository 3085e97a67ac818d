"""The `data` section of a recipe."""

from __future__ import annotations

import os
from typing import Literal

from pydantic import Field, field_validator

from ciyuan.config import Settings


class DataSettings(Settings):
    """What to learn from, what to hold out, and what becomes of examples that cannot be used as they are."""

    train: tuple[str, ...] = Field(
        default=(),
        description="Files to learn from: .tsv .csv .jsonl .parquet .tmx .po .txt, SQuAD's .json, each also .gz .xz .zst; "
        "two files that differ only in their suffix (corpus.en corpus.zh) are one parallel corpus; hf:NAME",
    )
    dev: str | int | tuple[str, ...] | None = Field(
        default=500, description="A file (or a parallel pair of files), or how many examples to hold out of train"
    )
    source: str | None = Field(default=None, description="Language to translate from; also the column's or file's name")
    target: str | None = Field(default=None, description="Language to translate into; also the column's or file's name")
    text: str | None = Field(default=None, description='Column that holds the text, "text" unless said otherwise')
    second: str | None = Field(default=None, description="Column that holds a second text, to label pairs of texts")
    label: str | None = Field(default=None, description='Column that holds the label, "label" unless said otherwise')
    multi_label: bool = Field(default=False, description="Whether a text may have several labels, or none")
    label_separator: str = Field(default=",", min_length=1, description="What parts the labels of one text, unless they are a list")
    question: str | None = Field(default=None, description='Column that holds the question, "question" unless said otherwise')
    passage: str | None = Field(default=None, description='Column that holds the passage, "passage" or "context" unless said')
    answer: str | None = Field(default=None, description='Column that holds the answer, "answer" or "answers" unless said')
    group: str | None = Field(default=None, description="Column by which train and dev are kept apart, e.g. a document")
    max_length: int = Field(default=256, ge=1, description="Longest source, target or labelled text, in tokens")
    too_long: Literal["drop", "truncate"] = Field(default="drop", description="What becomes of a longer one in train")
    duplicates: Literal["drop", "keep"] = Field(default="drop", description="Exact repetitions of a train example")
    leaks: Literal["drop", "keep"] = Field(default="drop", description="Train examples whose source is also in dev")

    @field_validator("train", mode="before")
    @classmethod
    def _one_file_is_a_list_of_one(cls, value: object) -> object:
        return (os.fspath(value),) if isinstance(value, str | os.PathLike) else value

    @field_validator("dev", mode="before")
    @classmethod
    def _a_path_is_text(cls, value: object) -> object:
        return os.fspath(value) if isinstance(value, os.PathLike) else value

    @field_validator("dev")
    @classmethod
    def _dev_counts_or_names(cls, value: str | int | tuple[str, ...] | None) -> str | int | tuple[str, ...] | None:
        if isinstance(value, str) and value.isdecimal():
            value = int(value)
        if isinstance(value, int) and value < 0:
            raise ValueError("dev must be a file or a number of examples, not negative")
        return None if value == 0 else value
