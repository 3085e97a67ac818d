"""Decoders whose texts any of several tokens ends: they stop where transformers stops, and go out as they came in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import ciyuan
from ciyuan.errors import ModelFolderError
from ciyuan.interop import load_model_folder, save_model_folder
from ciyuan.interop.writers.hugging_face import write_hugging_face
from tests.parity.reference import transformers
from tests.text.foreign import gpt2_vocabulary, merges, write

pytestmark = pytest.mark.filterwarnings("ignore")  # those of transformers, which are not ours to mend

VOCABULARY = gpt2_vocabulary(last=("<|endoftext|>", "<|eot|>"))
END, TURN = len(VOCABULARY) - 2, len(VOCABULARY) - 1
SIZES = {
    "llama": {
        "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24, "max_position_embeddings": 64,
    },
    "qwen2": {
        "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 24,
        "max_position_embeddings": 64,
    },
    "gpt2": {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64},
    "opt": {
        "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "ffn_dim": 24, "max_position_embeddings": 64,
        "word_embed_proj_dim": 16, "pad_token_id": END,
    },
}  # fmt: skip
CLASSES = {"llama": "Llama", "qwen2": "Qwen2", "gpt2": "GPT2LMHead", "opt": "OPT"}
PROMPTS = ["the quick brown fox", "中国的首都", "def f(x):", "Hello, World's", "打开"]


def folder_of(family: str, folder: Path, **changes: object) -> Path:
    """A model with random weights; changes: to config.json, None for a key that is not there. The tokeniser calls <|eot|> EOS."""
    name = CLASSES[family].removesuffix("LMHead")
    cls = getattr(transformers, "GPT2LMHeadModel" if family == "gpt2" else f"{name}ForCausalLM")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        ids = {"bos_token_id": END, "eos_token_id": END}
        model = cls(cls.config_class(**{**ids, **SIZES[family]}, vocab_size=len(VOCABULARY)))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.3 * torch.randn(parameter.shape))
    model.save_pretrained(folder)
    tokenizer = {"tokenizer_class": "GPT2Tokenizer", "eos_token": "<|eot|>", "bos_token": "<|endoftext|>"}
    write(folder, {"vocab.json": VOCABULARY, "merges.txt": merges()[1], "tokenizer_config.json": tokenizer})
    return folder


def name_ends(folder: Path, *, config: object, writing: object) -> None:
    """The eos_token_id of both files; writing None: there is no generation_config.json."""
    found = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**found, "eos_token_id": config}))
    if writing is None:
        (folder / "generation_config.json").unlink()
    else:
        (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": writing}))


def their_texts(folder: Path, **options: Any) -> list[list[int]]:
    """What generate writes, greedily, less the prompt."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    reader = transformers.AutoTokenizer.from_pretrained(folder)
    found = []
    for prompt in PROMPTS:
        read = reader(prompt, return_tensors="pt", add_special_tokens=False)
        written = model.generate(**read, max_new_tokens=12, do_sample=False, pad_token_id=END, **options)
        found.append(written[0, read["input_ids"].shape[1] :].tolist())
    return found


CASES: dict[str, tuple[str, Any, Any]] = {
    "as Llama 3.1 has them": ("llama", [END, 1, 2], [END, 1, 2]),
    "as Qwen 2.5 has them": ("qwen2", END, [TURN, END, 1]),
    "in config.json alone": ("gpt2", [END, 1], None),
    "fewer in generation_config.json": ("llama", [END, 1, 2], [END, 2]),
    "another in generation_config.json": ("opt", END, 1),
    "one in generation_config.json, of several": ("gpt2", [END, 1], END),
}
"""Family, and what both files name, where 1 and 2 stand for tokens that the model is seen to write."""


@pytest.mark.parametrize("case", CASES)
def test_texts_end_where_theirs_do_and_the_files_come_back_equal(case: str, tmp_path: Path) -> None:
    family, config, writing = CASES[case]
    folder = folder_of(family, tmp_path / "theirs")
    endless = their_texts(folder, eos_token_id=END)
    often = {1: endless[0][5], 2: endless[1][3]}  # chosen so that texts of theirs end within, not all in one place

    def filled(value: Any) -> Any:
        return [often.get(each, each) for each in value] if isinstance(value, list) else often.get(value, value)

    name_ends(folder, config=filled(config), writing=filled(writing))
    wanted = their_texts(folder)
    model = ciyuan.load(folder)
    ends = {*model.stop_ids, END}
    found = model.generations(PROMPTS, max_tokens=12)
    assert any(text[-1] in ends and len(text) < 12 for text in wanted) or writing == END
    for text, ours in zip(wanted, found, strict=True):
        ended = text[-1] in ends
        assert list(ours.tokens) == (text[:-1] if ended else text)
        assert ours.finish_reason == ("stop" if ended else "length")
    for prompt, ours in zip(PROMPTS, found, strict=True):
        assert "".join(model.stream(prompt, max_tokens=12)) == ours.text
    assert model.config.eos_id == model.tokenizer.eos_id == END

    loaded = load_model_folder(folder)
    save_model_folder(tmp_path / "ours", loaded.model, loaded.tokenizer, loaded.info, "")
    write_hugging_face(tmp_path / "out", loaded, dtype=torch.float32, card="")
    for copy in (tmp_path / "ours", tmp_path / "out"):
        ids = [
            json.loads((copy / file).read_text())["eos_token_id"] for file in ("config.json", "generation_config.json")
        ]
        assert ids == [filled(config), filled(config if writing is None else writing)]
        assert ciyuan.load(copy).stop_ids == model.stop_ids
        assert their_texts(copy, bad_words_ids=None) == wanted
    assert "ends" not in json.loads((tmp_path / "ours" / "ciyuan.json").read_text())
    assert any("a text ends with any of" in note for note in loaded.notes)


def test_one_end_is_nothing_to_speak_of(tmp_path: Path) -> None:
    loaded = load_model_folder(folder_of("llama", tmp_path))
    assert "ends" not in loaded.info
    assert ciyuan.load(tmp_path).stop_ids == ()


def test_a_pad_that_ends_a_text_too_is_written_at_its_end(tmp_path: Path) -> None:
    """Qwen's <|endoftext|>: PAD, and one of two ends. What is never written must not keep a text from ending."""
    folder = folder_of("llama", tmp_path / "theirs")
    often = their_texts(folder, eos_token_id=END)[0][5]
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "pad_token_id": often}))
    name_ends(folder, config=END, writing=[END, often])
    spelt = next(text for text, number in VOCABULARY.items() if number == often)
    tokenizer = {"tokenizer_class": "GPT2Tokenizer", "eos_token": "<|eot|>", "pad_token": spelt}
    write(folder, {"tokenizer_config.json": tokenizer})
    loaded = load_model_folder(folder)
    assert loaded.model.config.pad_id == often
    save_model_folder(tmp_path / "ours", loaded.model, loaded.tokenizer, loaded.info, "")
    found = ciyuan.load(tmp_path / "ours").generations(PROMPTS[:1], max_tokens=12)[0]
    assert (len(found.tokens), found.finish_reason) == (5, "stop")
    assert [often] not in json.loads((tmp_path / "ours" / "generation_config.json").read_text()).get(
        "bad_words_ids", []
    )


@pytest.mark.parametrize("value", [[], ["2"], [True], [len(VOCABULARY)], [-1], {"a": 1}, "</s>", 1.5])
@pytest.mark.parametrize("file", ["config.json", "generation_config.json"])
def test_what_is_no_token_is_refused(file: str, value: object, tmp_path: Path) -> None:
    folder = folder_of("llama", tmp_path)
    found = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps({**found, "eos_token_id": value}))
    with pytest.raises(ModelFolderError, match="eos_token_id is"):
        load_model_folder(folder)
