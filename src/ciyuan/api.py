"""A trained model in Python: `ciyuan.load(folder)`, and the verbs of the command line as methods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import torch
from torch import Tensor

from ciyuan.batch import Layout, Stream
from ciyuan.config import Sheet, build
from ciyuan.errors import ModelFolderError, UserError
from ciyuan.interop import load_model_folder
from ciyuan.model.config import ModelConfig
from ciyuan.model.transformer import Transformer
from ciyuan.text import Tokenizer

if TYPE_CHECKING:
    from ciyuan.generation import Translation

Ids = Tensor | Sequence[Sequence[int]]


def load(folder: str | Path, *, threads: int | None = None, device: str = "cpu") -> Model:
    """The model in a folder, ready to be put to work. Nothing is fetched from a network.

    Raises ModelFolderError where the folder is missing, incomplete or damaged.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    loaded = load_model_folder(Path(folder))
    return Model(loaded.model.to(device).eval(), loaded.tokenizer, loaded.info, folder=Path(folder))


class Model:
    """A model, its tokeniser and what is known of it."""

    def __init__(
        self, transformer: Transformer, tokenizer: Tokenizer, info: Mapping[str, Any], *, folder: Path | None = None
    ) -> None:
        self.transformer, self.tokenizer, self.info, self.folder = transformer, tokenizer, info, folder

    @property
    def config(self) -> ModelConfig:
        return self.transformer.config

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
        self.check_task("translate")
        from ciyuan.generation import DecodingSettings, translate

        return translate(
            self.transformer,
            self.tokenizer,
            texts,
            settings=build(DecodingSettings, Sheet("translate", {"beam": beam, **options}, {})),
            source=self.info.get("source"),
            target=self.info.get("target"),
            max_source=self.info.get("max_length"),
        )

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
        with torch.inference_mode():
            tokens, types = self._ids(input_ids), self._ids(token_type_ids)
            layout = Layout.whole(tokens) if attention_mask is None else Layout.of_mask(self._ids(attention_mask))
            stream = Stream(tokens, layout, types)
            if self.config.family != "encoder-decoder":
                if decoder_input_ids is not None:
                    raise UserError("decoder_input_ids are for an encoder–decoder; this model has one stack")
                return self.transformer.logits(self.transformer.hidden(stream))
            if decoder_input_ids is None:
                raise UserError(
                    "an encoder–decoder needs decoder_input_ids", fix="give the target's ids, shifted right"
                )
            target = self._ids(decoder_input_ids)
            memory = self.transformer.encode(stream)
            hidden = self.transformer.hidden(Stream(target, Layout.whole(target)), memory=memory, memory_layout=layout)
            return self.transformer.logits(hidden)

    def check_task(self, task: str) -> None:
        """Raises ModelFolderError if the model was trained for something else."""
        if self.config.family != "encoder-decoder" or self.info.get("task") not in (None, task):
            raise ModelFolderError(
                f"this model does not {task}: it was trained to {self.info.get('task') or 'do something else'}",
                where=self.folder,
            )

    @overload
    def _ids(self, ids: Ids) -> Tensor: ...
    @overload
    def _ids(self, ids: None) -> None: ...
    def _ids(self, ids: Ids | None) -> Tensor | None:
        if ids is None:
            return None
        tensor = torch.as_tensor(ids, dtype=torch.int64, device=self.device)
        if tensor.ndim != 2:
            raise UserError(f"ids of shape {tuple(tensor.shape)}", allowed="a batch of rows, (B, T)")
        return tensor
