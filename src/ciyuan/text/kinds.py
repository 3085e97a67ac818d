"""The kinds of tokeniser: how each reads its own files, and which tokens it has where nothing is said.

Source: transformers 5, the classes of `KINDS`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ciyuan.text.files import Files
from ciyuan.text.imported import (
    SPM_NAMES,
    Builder,
    read_gpt2,
    read_llama,
    read_mbart,
    read_mbart50,
    read_plain,
    read_qwen2,
    read_roberta,
    read_t5,
    read_wordpiece,
    read_xlm_roberta,
)
from ciyuan.text.renumbered import read_m2m100, read_marian
from ciyuan.text.special import Role


@dataclass(frozen=True)
class Kind:
    """How a class of tokeniser reads its own files, and which tokens it has where nothing is said.

    needs: the files, any one of them. defaults: by role.
    """

    read: Builder
    needs: tuple[str, ...]
    defaults: Mapping[Role, str]

    @property
    def renumbers(self) -> bool:
        """Whether a list beside the SentencePiece model numbers its pieces."""
        return self.read in (read_marian, read_m2m100)

    def lies_in(self, files: Files) -> bool:
        """Whether one of the files it needs is there."""
        return any(files.find(name) is not None for name in self.needs)


_END = "<|endoftext|>"
_BERT: Mapping[Role, str] = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
_FAIRSEQ: Mapping[Role, str] = {
    "bos": "<s>", "pad": "<pad>", "eos": "</s>", "unk": "<unk>", "cls": "<s>", "sep": "</s>", "mask": "<mask>"
}  # fmt: skip
_SPM: Mapping[Role, str] = {"bos": "<s>", "eos": "</s>", "unk": "<unk>"}
WORDPIECE = Kind(read_wordpiece, ("vocab.txt",), _BERT)
GPT2 = Kind(read_gpt2, ("merges.txt",), {"bos": _END, "eos": _END, "unk": _END})
ROBERTA = Kind(read_roberta, ("merges.txt",), _FAIRSEQ)
_LLAMA = Kind(read_llama, SPM_NAMES, _SPM)
PLAIN = Kind(read_plain, SPM_NAMES, {"pad": "<pad>", **_SPM})
MARIAN = Kind(read_marian, ("source.spm",), {"eos": "</s>", "unk": "<unk>", "pad": "<pad>"})

KINDS: Mapping[str, Kind] = {
    **dict.fromkeys(("Bert", "DistilBert", "Electra", "MobileBert", "ConvBert", "LayoutLM"), WORDPIECE),
    "GPT2": GPT2,
    **dict.fromkeys(("Roberta", "Bart", "Longformer", "LED", "Mvp"), ROBERTA),
    "Qwen2": Kind(read_qwen2, ("merges.txt",), {"eos": _END, "pad": _END, "unk": _END}),
    "Llama": _LLAMA,
    "Gemma": Kind(
        read_llama, SPM_NAMES, {"bos": "<bos>", "eos": "<eos>", "unk": "<unk>", "pad": "<pad>", "mask": "<mask>"}
    ),
    **dict.fromkeys(("T5", "MT5"), Kind(read_t5, SPM_NAMES, {"eos": "</s>", "unk": "<unk>", "pad": "<pad>"})),
    "XLMRoberta": Kind(read_xlm_roberta, SPM_NAMES, _FAIRSEQ),
    "Marian": MARIAN,
    "M2M100": Kind(read_m2m100, SPM_NAMES, {"pad": "<pad>", **_SPM, "sep": "</s>"}),
    "MBart": Kind(read_mbart, SPM_NAMES, _FAIRSEQ),
    "MBart50": Kind(read_mbart50, SPM_NAMES, {role: text for role, text in _FAIRSEQ.items() if role != "bos"}),
}
"""By the class's name, less "Tokenizer" and "Fast"."""

MODEL_TYPES: Mapping[str, str] = {
    "bert": "Bert", "distilbert": "DistilBert", "electra": "Electra", "mobilebert": "MobileBert", "gpt2": "GPT2", "opt": "GPT2",
    "roberta": "Roberta", "bart": "Bart", "qwen2": "Qwen2", "qwen3": "Qwen2", "llama": "Llama", "mistral": "Llama",
    "gemma": "Gemma", "gemma2": "Gemma", "gemma3_text": "Gemma", "t5": "T5", "mt5": "T5", "xlm-roberta": "XLMRoberta",
    "mbart": "MBart", "marian": "Marian", "m2m_100": "M2M100",
}  # fmt: skip
"""The kind of a folder that names no class, by the model_type of its config.json."""

NO_CLASS = ("", "PreTrained", "TokenizersBackend")
"""Names of classes that say nothing."""


def class_name(settings: Mapping[str, Any], about_model: Mapping[str, Any]) -> str:
    found = settings.get("tokenizer_class") or about_model.get("tokenizer_class")
    name = found.removesuffix("Fast").removesuffix("Tokenizer") if isinstance(found, str) else ""
    if name in NO_CLASS and "tokenizer_class" not in settings:
        model_type = about_model.get("model_type")
        return MODEL_TYPES.get(model_type, "") if isinstance(model_type, str) else ""
    return name
