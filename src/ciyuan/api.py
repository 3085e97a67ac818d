"""A trained model in Python: `ciyuan.load(folder)`, and the verbs of the command line as methods."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, overload

import torch
from torch import Tensor

from ciyuan.batch import Layout, Stream
from ciyuan.config import Sheet, build
from ciyuan.errors import ModelFolderError, UserError
from ciyuan.interop import load_adapter, load_model_folder, stop_ids
from ciyuan.model.config import ModelConfig
from ciyuan.model.transformer import Transformer
from ciyuan.text import Tokenizer

if TYPE_CHECKING:
    from ciyuan.evaluation.files import Scored
    from ciyuan.generation import Generation, GenerationSettings, Translation
    from ciyuan.prediction import Answer, Classified

Kind = TypeVar("Kind", str, int)
Ids = Tensor | Sequence[Sequence[int]]


def load(
    folder: str | Path,
    *,
    adapter: str | Path | None = None,
    adapters: Mapping[str, str | Path] | None = None,
    threads: int | None = None,
    device: str = "cpu",
) -> Model:
    """The model in a folder, ready to be put to work. Nothing is fetched from a network.

    adapter: the folder of a low-rank adapter to use with it. adapters: several, by a name for each; `use` gives the model with one
    of them. All share the memory of the one base.
    Raises ModelFolderError where a folder is missing, incomplete, damaged or, of an adapter, of another base.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    loaded = load_model_folder(Path(folder))
    loaded.model.to(device)
    if adapter is not None and adapters is not None:
        raise UserError("adapter and adapters are both given", fix="give one of the two")
    if adapter is not None:
        used = load_adapter(Path(adapter), loaded)
        return Model(used.model.to(device).eval(), used.tokenizer, used.info, folder=Path(adapter))
    beside = {}
    for name, path in (adapters or {}).items():
        used = load_adapter(Path(path), loaded)
        beside[name] = Model(used.model.to(device).eval(), used.tokenizer, used.info, folder=Path(path))
    return Model(loaded.model.eval(), loaded.tokenizer, loaded.info, folder=Path(folder), adapters=beside)


class Model:
    """A model, its tokeniser and what is known of it."""

    def __init__(
        self,
        transformer: Transformer,
        tokenizer: Tokenizer,
        info: Mapping[str, Any],
        *,
        folder: Path | None = None,
        adapters: Mapping[str, Model] | None = None,
    ) -> None:
        self.transformer, self.tokenizer, self.info, self.folder = transformer, tokenizer, info, folder
        self._adapters = dict(adapters or {})

    @property
    def adapters(self) -> tuple[str, ...]:
        """The names of the adapters that were loaded beside the model."""
        return tuple(self._adapters)

    def use(self, name: str) -> Model:
        """The model with one of its adapters: every verb works on it, and this one stays as it is."""
        if name not in self._adapters:
            raise UserError(
                f"there is no adapter {name!r}", where=self.folder,
                allowed=f"loaded: {', '.join(self._adapters)}" if self._adapters else "none is loaded",
                fix=None if self._adapters else "name them: ciyuan.load(folder, adapters={name: folder})",
            )  # fmt: skip
        return self._adapters[name]

    @property
    def config(self) -> ModelConfig:
        return self.transformer.config

    @property
    def source(self) -> str | None:
        """The language translated from, where it is known."""
        return self._known("source", str)

    @property
    def target(self) -> str | None:
        """The language translated into, where it is known."""
        return self._known("target", str)

    @property
    def max_source(self) -> int | None:
        """The longest source in tokens that the model was trained on, where it is known."""
        found = self._known("max_length", int)
        if found is not None and found < 1:
            raise ModelFolderError(f"ciyuan.json says that max_length is {found}", where=self.folder, fix="train again")
        return found

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """The tokens that end what it generates as EOS does."""
        return stop_ids(self.info)

    def _known(self, name: str, kind: type[Kind]) -> Kind | None:
        """What ciyuan.json says, which anybody may have written."""
        found = self.info.get(name)
        if found is not None and (not isinstance(found, kind) or isinstance(found, bool)):
            raise ModelFolderError(
                f"ciyuan.json has a {name} that is no {kind.__name__}", where=self.folder, fix="train again"
            )
        return found

    @property
    def device(self) -> torch.device:
        return next(self.transformer.parameters()).device

    @overload
    def translate(self, texts: str, *, beam: int = ..., **options: Any) -> str: ...
    @overload
    def translate(self, texts: Sequence[str], *, beam: int = ..., **options: Any) -> list[str]: ...
    def translate(self, texts: str | Sequence[str], *, beam: int = 4, **options: Any) -> str | list[str]:
        """Translations of the texts, in their order; a text for a text, a list for a list.

        beam: hypotheses kept, 1 is greedy. options: the others of `DecodingSettings`, e.g. length_penalty, max_length,
        batch_tokens. A text too long for the model is split at its sentences; `translations` says whether anything is missing.
        """
        if isinstance(texts, str):
            return self.translations([texts], beam=beam, **options)[0].text
        return [translation.text for translation in self.translations(texts, beam=beam, **options)]

    def translations(self, texts: Sequence[str], *, beam: int = 4, **options: Any) -> list[Translation]:
        """As `translate`, with what is known of each: text, score, tokens, finish_reason, truncated, flags."""
        self.check_verb("translate")
        from ciyuan.generation import DecodingSettings, translate

        return translate(
            self.transformer,
            self.tokenizer,
            texts,
            settings=build(DecodingSettings, Sheet("translate", {"beam": beam, **options}, {})),
            source=self.source,
            target=self.target,
            max_source=self.max_source,
        )

    @overload
    def generate(self, prompts: str, **options: Any) -> str: ...
    @overload
    def generate(self, prompts: Sequence[str], **options: Any) -> list[str]: ...
    def generate(self, prompts: str | Sequence[str], **options: Any) -> str | list[str]:
        """What the model writes after each prompt (for an encoder–decoder: for each source); greedy unless told otherwise.

        options: those of `GenerationSettings`, e.g. max_tokens, temperature, top_k, top_p, beam, stop, seed.
        """
        if isinstance(prompts, str):
            return self.generations([prompts], **options)[0].text
        return [generation.text for generation in self.generations(prompts, **options)]

    def generations(self, prompts: Sequence[str], **options: Any) -> list[Generation]:
        """As `generate`, with what is known of each: text, tokens, log_probs, finish_reason, n_prompt."""
        self.check_verb("generate")
        from ciyuan.generation import generate

        settings = _generation_settings(options)
        return generate(self.transformer, self.tokenizer, prompts, settings=settings, stop_ids=self.stop_ids)

    def stream(self, prompt: str, **options: Any) -> Iterator[str]:
        """The same text as `generate`, in pieces as they are written; no piece ends within a character."""
        self.check_verb("generate")
        from ciyuan.generation import generate_stream

        settings = _generation_settings(options)
        return generate_stream(self.transformer, self.tokenizer, prompt, settings=settings, stop_ids=self.stop_ids)

    def chat(self, messages: Sequence[Mapping[str, str]], **options: Any) -> str:
        """The assistant's next turn after messages of {"role": "system" | "user" | "assistant", "content": …}."""
        return "".join(self.chat_stream(messages, **options))

    def chat_stream(self, messages: Sequence[Mapping[str, str]], **options: Any) -> Iterator[str]:
        """The assistant's next turn, in pieces as they are written."""
        self.check_verb("chat")
        from ciyuan.generation import generate_stream
        from ciyuan.text import chat

        prompt = chat.prompt(messages, self.tokenizer)
        return generate_stream(
            self.transformer, self.tokenizer, prompt, settings=_generation_settings(options),
            stop_ids=[chat.end_id(self.tokenizer), *self.stop_ids],
        )  # fmt: skip

    @overload
    def fill(self, texts: str, *, k: int = ...) -> list[list[tuple[str, float]]]: ...  # type: ignore[overload-overlap]
    @overload
    def fill(self, texts: Sequence[str], *, k: int = ...) -> list[list[list[tuple[str, float]]]]: ...
    def fill(self, texts: str | Sequence[str], *, k: int = 5) -> Any:
        """For each [MASK] of a text the k likeliest tokens with their probabilities, likeliest first.

        "北京是中国的[MASK]都。" → [[("首", 0.83), …]]: one list for each mask.
        """
        self.check_verb("fill")
        from ciyuan.prediction import fill

        found = fill(self.transformer, self.tokenizer, [texts] if isinstance(texts, str) else list(texts), k=k)
        return found[0] if isinstance(texts, str) else found

    @overload
    def classify(self, texts: str, second: str | None = ...) -> Classified: ...  # type: ignore[overload-overlap]
    @overload
    def classify(self, texts: Sequence[str], second: Sequence[str] | None = ...) -> list[Classified]: ...
    def classify(self, texts: str | Sequence[str], second: str | Sequence[str] | None = None) -> Any:
        """The label or labels of each text (or of each pair with `second`), and the probability of every label."""
        self.check_verb("classify")
        from ciyuan.prediction import classify

        alone = isinstance(texts, str)
        first = [texts] if isinstance(texts, str) else list(texts)
        other = [second] if isinstance(second, str) else None if second is None else list(second)
        if other is not None and len(other) != len(first):
            raise UserError(f"{len(first)} texts and {len(other)} second texts", allowed="one for each")
        found = classify(
            self.transformer, self.tokenizer, first, labels=self.labels, multi_label=bool(self.info.get("multi_label")),
            second=other, max_length=self.max_source,
        )  # fmt: skip
        return found[0] if alone else found

    @overload
    def answer(self, question: str, passage: str) -> Answer: ...  # type: ignore[overload-overlap]
    @overload
    def answer(self, question: Sequence[str], passage: Sequence[str]) -> list[Answer]: ...
    def answer(self, question: str | Sequence[str], passage: str | Sequence[str]) -> Any:
        """The answer to each question about its passage: text and score; an empty text where the passage does not hold it."""
        self.check_verb("answer")
        from ciyuan.prediction import answer

        alone = isinstance(question, str)
        questions = [question] if isinstance(question, str) else list(question)
        passages = [passage] if isinstance(passage, str) else list(passage)
        if len(questions) != len(passages):
            raise UserError(f"{len(questions)} questions and {len(passages)} passages", allowed="a passage for each")
        found = answer(
            self.transformer, self.tokenizer, questions, passages, max_length=self.max_source,
            stride=self._known("stride", int), max_answer=self._known("max_answer", int),
        )  # fmt: skip
        return found[0] if alone else found

    def embed(self, texts: str | Sequence[str], *, pooling: str = "mean", normalise: bool = True) -> Tensor:
        """A vector for each text: (D,) for one, (B, D) for several. pooling: "mean", "first" or "last" of its tokens."""
        self.check_verb("embed")
        from ciyuan.prediction import embed

        found = embed(
            self.transformer, self.tokenizer, [texts] if isinstance(texts, str) else list(texts), pooling=pooling,
            normalise=normalise,
        )  # fmt: skip
        return found[0] if isinstance(texts, str) else found

    def scored(self) -> Scored:
        """The model as `ciyuan evaluate` sees it: `.read(files)` gives examples of its task, `.score(examples, …)` their scores."""
        from ciyuan.evaluation.files import Scored

        return Scored(self.transformer, self.tokenizer, self.info, self.labels if self.config.n_labels else ())

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels of a classifier, by their id."""
        found = self.info.get("labels")
        if not isinstance(found, list) or not all(isinstance(label, str) for label in found):
            return tuple(f"LABEL_{i}" for i in range(self.config.n_labels))
        if len(found) != self.config.n_labels:
            raise ModelFolderError(
                f"ciyuan.json names {len(found)} labels, the model has {self.config.n_labels}", where=self.folder
            )
        return tuple(found)

    def logits(
        self,
        input_ids: Ids,
        attention_mask: Ids | None = None,
        token_type_ids: Ids | None = None,
        decoder_input_ids: Ids | None = None,
    ) -> Tensor:
        """(B, T, V) scores of every token at every position, in the model's precision.

        input_ids: (B, T), or (B, S) of the source for an encoder–decoder, whose decoder reads decoder_input_ids (B, T).
        attention_mask: as input_ids, 1 = text, 0 = padding; by default everything is text.
        """
        vocab_size = self.config.vocab_size
        tokens = self._table(input_ids, "input_ids", vocab_size)
        layout = Layout.whole(tokens)
        if attention_mask is not None:
            layout = Layout.of_mask(self._table(attention_mask, "attention_mask", 2, like=tokens))
        types = None
        if token_type_ids is not None:
            types = self._table(token_type_ids, "token_type_ids", max(1, self.config.n_token_types), like=tokens)
        stream = Stream(tokens, layout, types)
        with torch.inference_mode():
            if self.config.family != "encoder-decoder":
                if decoder_input_ids is not None:
                    raise UserError("decoder_input_ids are for an encoder–decoder; this model has one stack")
                return self.transformer.logits(self.transformer.hidden(stream))
            if decoder_input_ids is None:
                raise UserError(
                    "an encoder–decoder needs decoder_input_ids", fix="give the target's ids, shifted right"
                )
            target = self._table(decoder_input_ids, "decoder_input_ids", vocab_size)
            if len(target) != len(tokens):
                raise UserError(f"input_ids have {len(tokens)} rows and decoder_input_ids {len(target)}")
            memory = self.transformer.encode(stream)
            hidden = self.transformer.hidden(Stream(target, Layout.whole(target)), memory=memory, memory_layout=layout)
            return self.transformer.logits(hidden)

    def check_verb(self, verb: str) -> None:
        """Raises ModelFolderError if the model was made for something else."""
        does = verbs(self.config, self.info.get("task"))
        if verb not in does:
            raise ModelFolderError(
                f"this model does not {verb}: it is {'a' if self.config.family == 'decoder' else 'an'} {self.config.family}"
                + (f" trained for {self.info['task']}" if isinstance(self.info.get("task"), str) else ""),
                where=self.folder,
                allowed=f"what it does: {', '.join(does)}",
            )

    def _table(self, rows: Ids, name: str, below: int, *, like: Tensor | None = None) -> Tensor:
        """Rows of whole numbers 0 … below − 1 as (B, T) int64, of the shape of `like` if that is given."""
        try:
            table = torch.as_tensor(rows, dtype=torch.int64, device=self.device)
        except (ValueError, TypeError, OverflowError, RuntimeError):
            raise UserError(f"{name} are not rows of equally many ids", fix="pad the shorter rows") from None
        if table.ndim != 2 or table.numel() == 0:
            raise UserError(f"{name} have the shape {tuple(table.shape)}", allowed="a batch of rows, (B, T)")
        if like is not None and table.shape != like.shape:
            raise UserError(f"{name} have the shape {tuple(table.shape)}, input_ids {tuple(like.shape)}")
        low, high = int(table.min()), int(table.max())
        if low < 0 or high >= below:
            raise UserError(f"{name} hold {low if low < 0 else high}", allowed=f"0 … {below - 1}")
        return table


def verbs(config: ModelConfig, task: object) -> list[str]:
    """What a model of this configuration can be asked, trained for this task or, where it is None, for one that is not known."""
    found = []
    if config.head == "classification":
        found.append("classify")
    elif config.head == "span":
        found.append("answer")
    elif config.head == "language-model":
        if config.family == "encoder":
            found.append("fill")
        else:
            found.append("generate")
        if config.family == "encoder-decoder" and task in (None, "translate"):
            found.append("translate")
        if config.family != "encoder" and task == "answer":
            found.append("answer")
        if config.family == "decoder" and task in (None, "chat"):
            found.append("chat")
    return [*found, "embed"]


def _generation_settings(options: Mapping[str, Any]) -> GenerationSettings:
    from ciyuan.generation import GenerationSettings

    return build(GenerationSettings, Sheet("generate", dict(options), {}))
