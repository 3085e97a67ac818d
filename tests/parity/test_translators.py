"""Folders of translators as the world has them, their tokenisers' own files included: text in, the same text out as by theirs."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

import ciyuan
from ciyuan.interop import load_model_folder, save_model_folder
from tests.parity.reference import transformers
from tests.text.foreign import gpt2_vocabulary, merges, write
from tests.text.test_imported import FAIRSEQ
from tests.text.test_renumbered import CODES, m2m100, marian

pytestmark = pytest.mark.filterwarnings("ignore")  # those of transformers, which are not ours to mend

TEXTS = ["Choose File - Print, then click OK.", "the quick brown fox is in 北京", "打开帮助菜单。", "Hello, naïve ABC"]
SIZES = {
    "d_model": 16, "encoder_layers": 2, "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2,
    "encoder_ffn_dim": 24, "decoder_ffn_dim": 24, "max_position_embeddings": 64,
}  # fmt: skip


def bart(folder: Path) -> Path:
    return write(folder, {
        "vocab.json": gpt2_vocabulary(FAIRSEQ, ["<mask>"]), "merges.txt": merges()[1], "config.json": {"model_type": "bart"},
        "tokenizer_config.json": {"tokenizer_class": "BartTokenizer"},
    })  # fmt: skip


def with_model(folder: Path, name: str, rows: int = 0, **ids: int) -> Path:
    """The folder of a tokeniser, with a model of random weights. rows: of its table beyond the tokeniser's ids."""
    cls = getattr(transformers, f"{name}MTModel" if name == "Marian" else f"{name}ForConditionalGeneration")
    vocab_size = len(json.loads((folder / "vocab.json").read_text())) + rows
    kept = {file: (folder / file).read_bytes() for file in ("tokenizer_config.json",)}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        options = {name: value for name, value in ids.items() if name != "forced_bos_token_id"}
        model = cls(cls.config_class(**SIZES, **options, vocab_size=vocab_size))
        model.generation_config.forced_bos_token_id = ids.get("forced_bos_token_id")
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.add_(0.3 * torch.randn(parameter.shape))
    model.save_pretrained(folder)
    for file, content in kept.items():
        (folder / file).write_bytes(content)
    return folder


def made(kind: str, folder: Path) -> Path:
    if kind.startswith("marian"):
        marian(folder, codes=CODES)
        names = json.loads((folder / "vocab.json").read_text())
        pad, end = names["<pad>"], names["</s>"]
        return with_model(
            folder, "Marian", pad_token_id=pad, eos_token_id=end, bos_token_id=end, decoder_start_token_id=pad
        )
    if kind == "bart":
        ids = {
            "pad_token_id": 1,
            "bos_token_id": 0,
            "eos_token_id": 2,
            "decoder_start_token_id": 2,
            "forced_bos_token_id": 0,
        }
        return with_model(bart(folder), "Bart", **ids)
    m2m100(folder, src_lang="zh")
    first = len(json.loads((folder / "vocab.json").read_text()))
    ids = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "decoder_start_token_id": 2}
    forced = {"forced_bos_token_id": first + 5} if kind == "m2m100" else {}
    return with_model(folder, "M2M100", rows=108, **ids, **forced)


def their_ids(
    folder: Path, texts: list[str], forbidden: set[int], *, n_prefix: int = 1, **options: Any
) -> list[list[int]]:
    """What generate writes greedily, less what the decoder begins with and the end; at most 16 tokens in all."""
    reader = transformers.AutoTokenizer.from_pretrained(folder)
    model: Any = transformers.AutoModelForSeq2SeqLM.from_pretrained(folder)
    found = []
    for text in texts:
        written = model.generate(
            **reader(text, return_tensors="pt"), num_beams=1, do_sample=False, max_length=16, forced_eos_token_id=None,
            bad_words_ids=[[token] for token in sorted(forbidden)], **options,
        )[0, n_prefix:].tolist()  # fmt: skip
        found.append(written[:-1] if written[-1] == model.config.eos_token_id else written)
    return found


@pytest.mark.parametrize("kind", ["marian", "bart", "m2m100", "m2m100 without a language to write"])
def test_a_text_is_translated_as_by_theirs_and_so_after_it_was_saved(kind: str, tmp_path: Path) -> None:
    folder = made(kind, tmp_path / "theirs")
    texts = [*TEXTS, ">>fra<< Hello, World's"] if kind == "marian" else TEXTS
    loaded = load_model_folder(folder)
    save_model_folder(tmp_path / "ours", loaded.model, loaded.tokenizer, loaded.info, "")
    config = loaded.model.config
    forbidden = {
        token for token in (config.pad_id, config.bos_id, config.start_id) if token not in (None, config.eos_id)
    }
    n_prefix = len(config.decoder_prefix)
    plain, not_twice = (
        their_ids(folder, texts, forbidden, n_prefix=n_prefix, no_repeat_ngram_size=n)  # type: ignore[arg-type]
        for n in (0, 3)
    )
    assert len({*map(tuple, not_twice)}) > 1
    reader = transformers.AutoTokenizer.from_pretrained(folder)
    for place in (folder, tmp_path / "ours"):
        model = ciyuan.load(place)
        written = model.generations(texts, max_tokens=16 - n_prefix)
        assert [list(text.tokens) for text in written] == plain
        found = model.translations(texts, beam=1, max_length=16 - n_prefix, no_repeat_ngram=3)
        assert [list(text.tokens) for text in found] == not_twice
        for text, ids in zip(found, not_twice, strict=True):  # theirs takes a language for text
            assert text.text.strip() == re.sub("__[a-z]+__", "", reader.decode(ids, skip_special_tokens=True)).strip()
    assert their_ids(tmp_path / "ours", texts, forbidden, n_prefix=n_prefix) == plain  # type: ignore[arg-type]
    assert any("cannot be taught more" in note for note in loaded.notes) == (kind == "marian")
    said = any("names no language to write" in note for note in loaded.notes)
    assert said == (kind == "m2m100 without a language to write")


@pytest.mark.parametrize("kind", ["bart", "m2m100"])
def test_a_source_is_read_with_what_their_tokeniser_puts_around_it(kind: str, tmp_path: Path) -> None:
    folder = made(kind, tmp_path)
    loaded, reader = load_model_folder(folder), transformers.AutoTokenizer.from_pretrained(folder)
    for text in TEXTS:
        assert loaded.model.config.source_row(loaded.tokenizer.encode(text)) == reader(text)["input_ids"]
    n = len(loaded.model.config.source_row(()))
    assert loaded.model.config.reading_room == 64 - n


def test_a_seq2seq_model_whose_pad_is_its_end_answers_as_theirs_and_learns_its_end(tmp_path: Path) -> None:
    from ciyuan.objectives import Seq2Seq

    ids = {
        "pad_token_id": 2,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "decoder_start_token_id": 2,
        "forced_bos_token_id": 0,
    }
    folder = with_model(bart(tmp_path / "theirs"), "Bart", **ids)
    tokenizer = {"tokenizer_class": "BartTokenizer", "pad_token": "</s>"}
    write(folder, {"tokenizer_config.json": tokenizer})
    loaded = load_model_folder(folder)
    assert loaded.tokenizer.special.pad is None
    assert loaded.model.config.pad_id == loaded.model.config.eos_id == 2
    wanted = their_ids(folder, TEXTS, {0}, n_prefix=2, no_repeat_ngram_size=3)
    found = ciyuan.load(folder).translations(TEXTS, beam=1, max_length=14, no_repeat_ngram=3)  # in one padded batch
    assert [list(text.tokens) for text in found] == wanted
    config = loaded.model.config
    rows = [(loaded.tokenizer.encode(text), loaded.tokenizer.encode(text)) for text in TEXTS]
    losses = []
    for pad in (2, 1):
        objective = Seq2Seq(
            pad_id=pad, start_id=config.decoder_start, eos_id=2, first_id=config.first_id,
            source_head=config.source_head, source_tail=config.source_tail,
        )  # fmt: skip
        batch = objective.collate(rows)
        assert int((batch.targets == 2).sum()) == len(TEXTS)
        losses.append(objective.loss(loaded.model, batch).sum)
    torch.testing.assert_close(losses[0], losses[1])
