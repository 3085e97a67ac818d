"""Reference models with random weights, built offline from configs; one row of odd settings each."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch

from ciyuan.generation.decoding import forbidden_tokens, greedy, scorer
from ciyuan.model import Transformer

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import transformers
    from transformers.utils import logging

logging.set_verbosity_error()
logging.disable_progress_bar()

PAD, BOS, EOS, VOCABULARY = 0, 1, 2, 37
IDS = {
    "pad_token_id": PAD,
    "bos_token_id": BOS,
    "eos_token_id": EOS,
    "decoder_start_token_id": BOS,
    "vocab_size": VOCABULARY,
}

BART = {
    **IDS, "d_model": 24, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 40, "decoder_ffn_dim": 40, "max_position_embeddings": 48,
}  # fmt: skip
ODD = {
    "encoder_layers": 3, "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 6,
    "encoder_ffn_dim": 56, "decoder_ffn_dim": 17,
}  # fmt: skip
T5 = {
    **IDS, "d_model": 24, "d_kv": 6, "d_ff": 40, "num_layers": 2, "num_heads": 4,
    "relative_attention_num_buckets": 8, "relative_attention_max_distance": 12,
}  # fmt: skip

ROWS: dict[str, tuple[str, dict[str, Any]]] = {
    "marian relu": ("Marian", {**BART, "activation_function": "relu", "scale_embedding": True}),
    "marian swish, as opus-mt": (
        "Marian",
        {**BART, "activation_function": "swish", "scale_embedding": True, "decoder_start_token_id": PAD, "bos_token_id": EOS},
    ),
    "marian gelu, odd sizes, not scaled": ("Marian", {**BART, **ODD, "activation_function": "gelu"}),
    "marian two tables": ("Marian", {**BART, "share_encoder_decoder_embeddings": False, "activation_function": "relu"}),
    "marian two tables, own head": (
        "Marian",
        {**BART, **ODD, "share_encoder_decoder_embeddings": False, "tie_word_embeddings": False, "scale_embedding": True},
    ),
    "m2m100 relu": ("M2M100", BART),
    "m2m100 odd sizes, not scaled, gelu": ("M2M100", {**BART, **ODD, "scale_embedding": False, "activation_function": "gelu"}),
    "m2m100 pad 3, as others": ("M2M100", {**BART, "pad_token_id": 3, "bos_token_id": 0, "decoder_start_token_id": EOS}),
    "t5 relu": ("T5", {**T5, "decoder_start_token_id": PAD}),
    "t5 v1.1": ("T5", {**T5, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}),
    "t5 odd sizes": ("T5", {**T5, "num_layers": 1, "num_decoder_layers": 3, "d_kv": 5, "feed_forward_proj": "gated-silu"}),
    "t5 plain gelu, own head, scaled": ("T5", {**T5, "feed_forward_proj": "gelu", "scale_decoder_outputs": True}),
    "mt5 as released: own head": ("MT5", {**T5, "decoder_start_token_id": PAD, "num_decoder_layers": 3}),
    "mt5 tied, relu, many buckets": (
        "MT5",
        {**T5, "feed_forward_proj": "relu", "relative_attention_num_buckets": 14, "relative_attention_max_distance": 9, "d_kv": 7},
    ),
    "bart as released": ("Bart", {**BART, "decoder_start_token_id": EOS, "forced_bos_token_id": BOS}),
    "bart odd sizes, relu, scaled": (
        "Bart", {**BART, **ODD, "activation_function": "relu", "scale_embedding": True, "pad_token_id": 3, "bos_token_id": 0},
    ),
    "mbart as released, another first": (
        "MBart",
        {
            **BART, "scale_embedding": True, "activation_function": "relu", "decoder_start_token_id": EOS,
            "forced_bos_token_id": 9,
        },
    ),
    "mbart odd sizes, pad 3": ("MBart", {**BART, **ODD, "pad_token_id": 3, "decoder_start_token_id": 7}),
    "m2m100 with a first": ("M2M100", {**BART, "forced_bos_token_id": 9}),
}  # fmt: skip

CLASSES = {
    "Marian": (transformers.MarianConfig, transformers.MarianMTModel),
    "M2M100": (transformers.M2M100Config, transformers.M2M100ForConditionalGeneration),
    "T5": (transformers.T5Config, transformers.T5ForConditionalGeneration),
    "MT5": (transformers.MT5Config, transformers.MT5ForConditionalGeneration),
    "Bart": (transformers.BartConfig, transformers.BartForConditionalGeneration),
    "MBart": (transformers.MBartConfig, transformers.MBartForConditionalGeneration),
}


def build(row: str, *, seed: int = 0) -> Any:
    """The reference model of a row; every parameter is random, norms and the bias of the logits too."""
    name, settings = ROWS[row]
    config_class, model_class = CLASSES[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = model_class(config_class(**settings))
        model.generation_config.forced_bos_token_id = settings.get("forced_bos_token_id")
        if ("own head" in row and "T5" in name) or "v1.1" in row:
            model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
            model.all_tied_weights_keys.pop("lm_head.weight", None)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.add_(0.15 * torch.randn(parameter.shape))
            if name in ("Marian", "Bart", "MBart"):
                model.final_logits_bias.normal_()
    return model.eval()


def their_logits(model: Any, ids: torch.Tensor, mask: torch.Tensor, decoder_ids: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=ids, attention_mask=mask, decoder_input_ids=decoder_ids).logits  # type: ignore[no-any-return]


def our_greedy(model: Transformer, source: list[int], limit: int) -> list[int]:
    found = greedy(scorer(model, source, forbidden=forbidden_tokens(model.config)), eos_id=EOS, limit=limit)
    return list(found.tokens)


def load_theirs(folder: Path) -> Any:
    """As a user would, with what transformers says about the keys that it missed or did not expect."""
    return transformers.AutoModelForSeq2SeqLM.from_pretrained(folder, output_loading_info=True)
