"""Files of examples scored by whatever a model was trained for: what `ciyuan evaluate` does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ciyuan.data.readers import Record, read_answers, read_chats, read_labelled, read_pairs, read_texts
from ciyuan.errors import DataError, UserError
from ciyuan.evaluation.evaluate import evaluate_answerer, evaluate_classifier, evaluate_translator
from ciyuan.evaluation.language import evaluate_language_model, evaluate_masked
from ciyuan.evaluation.metrics import perplexity
from ciyuan.evaluation.scores import Row, Scores, Tally, ratio
from ciyuan.generation import DecodingSettings
from ciyuan.generation.translation import evaluating
from ciyuan.model.transformer import Transformer
from ciyuan.objectives import Prompted
from ciyuan.text import Tokenizer, chat

LANGUAGE_MODEL, MASKED = "causal-lm", "masked-lm"


@dataclass(frozen=True)
class Scored:
    """What is asked and what it is asked of. info: the model folder's ciyuan.json."""

    model: Transformer
    tokenizer: Tokenizer
    info: Mapping[str, Any]
    labels: tuple[str, ...] = ()

    @property
    def task(self) -> str:
        """What the model was trained for; of a folder that does not say, what its head can do."""
        said = self.info.get("task")
        if isinstance(said, str):
            return said
        config = self.model.config
        if config.head == "classification":
            return "classify"
        if config.head == "span":
            return "answer"
        return {"encoder": MASKED, "decoder": LANGUAGE_MODEL, "encoder-decoder": "translate"}[config.family]

    def read(self, files: Sequence[str]) -> tuple[list[Record], int]:
        """The examples of the files, and how many have an empty side and are left out.

        Raises DataError where they are not of the kind that the task needs, or all are empty.
        """
        columns = self.info.get("columns")
        named = (
            {key: value for key, value in columns.items() if isinstance(value, str)}
            if isinstance(columns, dict)
            else {}
        )
        if self.task == "translate":
            found = list(read_pairs(files, self._text("source"), self._text("target")))
        elif self.task in (LANGUAGE_MODEL, MASKED):
            found = list(read_texts(files, named.get("text")))
        elif self.task == "classify":
            separator = named.get("label_separator", ",") if self.info.get("multi_label") else None
            found = list(
                read_labelled(
                    files, named.get("text"), named.get("label"), second=named.get("second"), label_separator=separator
                )
            )
        elif self.task == "answer":
            found = list(read_answers(files, named.get("question"), named.get("passage"), named.get("answer")))
        elif self.task == "chat":
            found = list(read_chats(files))
        else:
            raise UserError(
                f"a model trained to {self.task} has no score of its own", fix="fine-tune it, and evaluate that"
            )
        may_be_empty = {"answer"} | ({"label"} if self.info.get("multi_label") else set())
        kept = [r for r in found if all(text.strip() for name, text in r.fields.items() if name not in may_be_empty)]
        if not kept:
            raise DataError("holds no example that is not empty", where=", ".join(files))
        return kept, len(found) - len(kept)

    def score(self, records: Sequence[Record], decoding: DecodingSettings) -> Scores:
        """The scores of the model on these examples. decoding: of a translation."""
        model, tokenizer, width = self.model, self.tokenizer, self._number("max_length")
        if self.task == "translate":
            pairs = [(record.fields["source"], record.fields["target"]) for record in records]
            return evaluate_translator(
                model, tokenizer, pairs, source=self._text("source"), target=self._text("target"), settings=decoding,
                max_source=width,
            )  # fmt: skip
        if self.task == LANGUAGE_MODEL:
            return evaluate_language_model(model, tokenizer, whole_texts(records), width=width)
        if self.task == MASKED:
            return evaluate_masked(model, tokenizer, whole_texts(records), width=width)
        if self.task == "classify":
            second = [record.fields["second"] for record in records] if "second" in records[0].fields else None
            multi = bool(self.info.get("multi_label"))
            return evaluate_classifier(
                model, tokenizer, [record.fields["text"] for record in records],
                [record.labels if multi else (record.fields["label"],) for record in records],
                labels=self.labels, multi_label=multi,
                second=second, max_length=width,
            )  # fmt: skip
        if self.task == "answer":
            return evaluate_answerer(
                model, tokenizer, [record.fields["question"] for record in records],
                [record.fields["passage"] for record in records], [record.answers for record in records],
                max_length=width, stride=self._number("stride"), max_answer=self._number("max_answer"),
            )  # fmt: skip
        return evaluate_chats(model, tokenizer, records, width)

    def _text(self, name: str) -> str | None:
        found = self.info.get(name)
        return found if isinstance(found, str) else None

    def _number(self, name: str) -> int | None:
        found = self.info.get(name)
        return found if isinstance(found, int) and not isinstance(found, bool) and found > 0 else None


def whole_texts(records: Sequence[Record]) -> list[str]:
    """The documents of records, of which those of running text may each be a piece of one: they are put together again."""
    texts: list[str] = []
    group: str | None = None
    for record in records:
        is_running = record.group is not None and record.group.startswith(f"{record.file}#")
        if is_running and record.group == group:
            texts[-1] += record.fields["text"]
        else:
            texts.append(record.fields["text"])
        group = record.group
    return texts


def evaluate_chats(
    model: Transformer, tokenizer: Tokenizer, records: Sequence[Record], width: int | None = None
) -> Scores:
    """What the assistant's words of held-out conversations cost the model: nll in nats and perplexity per token.

    A conversation that is longer than `width` tokens is cut off there, and that is said.
    """
    room = min(width or model.config.max_positions, model.config.max_positions) + 1  # the last token is only asked for
    objective = Prompted(pad_id=model.config.pad_id)
    rendered = [
        chat.render([{"role": role, "content": words} for role, words in record.turns], tokenizer) for record in records
    ]
    rows = [(one.tokens[:room], one.supervised[:room]) for one in rendered]
    asked = [i for i, (_, supervised) in enumerate(rows) if any(supervised[1:])]
    if not asked:
        raise UserError("no conversation has words of the assistant to score")
    device = next(model.parameters()).device
    counts = np.zeros((len(asked), 2))  # nats, tokens
    with evaluating(model), torch.inference_mode():
        for place, i in enumerate(asked):
            total, n = objective.loss(model, objective.collate([rows[i]]).to(device)).metrics["nll"]
            counts[place] = float(total), n
    nats, n_tokens = counts.sum(axis=0)
    cut = sum(len(one.tokens) > room for one in rendered)
    warnings = [f"{cut} of {len(rows)} conversations were truncated"] if cut else []
    if len(asked) < len(rows):
        warnings.append(
            f"{len(rows) - len(asked)} of {len(rows)} conversations have no words of the assistant to score"
        )
    nll = float(nats / n_tokens)
    return Scores(
        metrics={"perplexity": perplexity(nll), "nll": nll},
        signatures={"perplexity": f"tokens:{n_tokens:.0f}|vocabulary:{tokenizer.vocab_size}"},
        examples=len(asked),
        warnings=tuple(warnings),
        rows=tuple(Row(records[i].fields["chat"], "", "") for i in asked),
        tallies=lambda: {
            "perplexity": Tally(counts, lambda sums: np.exp(ratio(sums[..., 0], sums[..., 1])), higher_is_better=False)
        },
    )
