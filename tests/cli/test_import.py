"""`ciyuan import`: folders whole and in shards, caches of a hub, what is said, and what the result can do."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import ciyuan
from ciyuan.interop import sources
from ciyuan.objectives import Prompted
from tests.cli.conftest import Call
from tests.text.foreign import bert_vocabulary, gpt2_vocabulary, merges, write

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As transformers writes it, with the tokeniser's older files."""
    from transformers import GPT2Config, GPT2LMHeadModel

    folder, vocabulary = tmp_path_factory.mktemp("theirs") / "gpt2", gpt2_vocabulary()
    torch.manual_seed(0)
    end = vocabulary["<|endoftext|>"]
    config = GPT2Config(
        n_layer=1, n_head=2, n_embd=16, n_positions=64, vocab_size=len(vocabulary), bos_token_id=end, eos_token_id=end
    )
    GPT2LMHeadModel(config).save_pretrained(folder)
    return write(folder, {"vocab.json": vocabulary, "merges.txt": merges()[1]})


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import BertConfig, BertForMaskedLM

    folder, vocabulary = tmp_path_factory.mktemp("theirs") / "bert", bert_vocabulary()
    torch.manual_seed(0)
    config = BertConfig(
        num_hidden_layers=1, num_attention_heads=2, hidden_size=16, intermediate_size=24, vocab_size=vocabulary.count("\n"),
        max_position_embeddings=64,
    )  # fmt: skip
    BertForMaskedLM(config).save_pretrained(folder)
    return write(folder, {"vocab.txt": vocabulary})


def in_shards(whole: Path, folder: Path) -> Path:
    shutil.copytree(whole, folder)
    tensors = load_file(folder / WEIGHTS)
    places = {name: f"model-{1 + i % 3:05}-of-00003.safetensors" for i, name in enumerate(sorted(tensors))}
    for file in set(places.values()):
        save_file({name: tensors[name] for name in tensors if places[name] == file}, folder / file, {"format": "pt"})
    (folder / WEIGHTS).unlink()
    write(folder, {INDEX: {"metadata": {"total_size": 1}, "weight_map": places}})
    return folder


def in_cache(whole: Path, cache: Path, revision: str = "a" * 40) -> Path:
    """As the hub's client keeps it: the files of a snapshot are links to blobs, named by what they hold."""
    repository = cache / "models--some--gpt2"
    snapshot = repository / "snapshots" / revision
    for folder in (snapshot, repository / "refs", repository / "blobs"):
        folder.mkdir(parents=True)
    write(repository / "refs", {"main": revision})
    for number, file in enumerate(sorted(whole.iterdir())):
        shutil.copy(file, repository / "blobs" / str(number))
        (snapshot / file.name).symlink_to(f"../../blobs/{number}")
    return repository


def same(a: Path, b: Path) -> bool:
    one, other = load_file(a / WEIGHTS), load_file(b / WEIGHTS)
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_what_was_read_is_said_and_the_result_answers(call: Call, gpt2: Path, tmp_path: Path) -> None:
    answer = call("import", gpt2, "--out", tmp_path / "out")
    assert answer.code == 0
    n = len(gpt2_vocabulary())
    for said in ("GPT2LMHeadModel (gpt2)", "decoder, 1 layers of width 16", f"BPE, {n:,} tokens", "EOS <|endoftext|>",
                 "BOS, <|endoftext|>, has no role", "no PAD of its own", f"ciyuan generate {tmp_path / 'out'}"):  # fmt: skip
        assert said in answer.out
    assert "ciyuan chat" not in answer.out  # its tokeniser knows no turns
    own = json.loads((tmp_path / "out" / "ciyuan.json").read_text())
    assert own["provenance"]["source"] == "gpt2"
    assert len(own["provenance"]["sha256"][WEIGHTS]) == 64
    assert "Imported by ciyuan" in (tmp_path / "out" / "README.md").read_text()
    assert call("generate", tmp_path / "out", "--prompt", "the quick", "--max-tokens", 3).code == 0


def test_an_imported_folder_computes_what_transformers_computes_in_both_directions(
    call: Call, gpt2: Path, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    assert call("import", gpt2, "--out", tmp_path / "out").code == 0
    ours, ids = ciyuan.load(tmp_path / "out"), AutoTokenizer.from_pretrained(gpt2)("the quick 北京")["input_ids"]
    assert ours.tokenizer.encode("the quick 北京") == ids
    for folder in (gpt2, tmp_path / "out"):
        with torch.no_grad():
            theirs = AutoModelForCausalLM.from_pretrained(folder)(torch.tensor([ids])).logits
        torch.testing.assert_close(ours.logits([ids]), theirs, atol=1e-5, rtol=1e-5)
    assert AutoTokenizer.from_pretrained(tmp_path / "out")("the quick 北京")["input_ids"] == ids


def test_shards_and_a_whole_file_are_one_model(call: Call, gpt2: Path, tmp_path: Path) -> None:
    assert call("import", gpt2, "--out", tmp_path / "whole").code == 0
    assert call("import", in_shards(gpt2, tmp_path / "shards"), "--out", tmp_path / "out").code == 0
    assert same(tmp_path / "whole", tmp_path / "out")
    sums = json.loads((tmp_path / "out" / "ciyuan.json").read_text())["provenance"]["sha256"]
    assert sum(name.startswith("model-") for name in sums) == 3


def test_numbers_of_half_the_size_are_widened_and_that_is_said(call: Call, gpt2: Path, tmp_path: Path) -> None:
    shutil.copytree(gpt2, tmp_path / "half")
    halves = {name: tensor.bfloat16() for name, tensor in load_file(gpt2 / WEIGHTS).items()}
    save_file(halves, tmp_path / "half" / WEIGHTS, {"format": "pt"})
    answer = call("import", tmp_path / "half", "--out", tmp_path / "out")
    assert "numbers stored as BF16 are kept as F32" in answer.out
    found = load_file(tmp_path / "out" / WEIGHTS)
    assert all(torch.equal(found[name], halves[name].float()) for name in found)


def test_tensors_that_are_not_used_are_named(call: Call, gpt2: Path, tmp_path: Path) -> None:
    shutil.copytree(gpt2, tmp_path / "old")
    tensors = load_file(gpt2 / WEIGHTS)
    save_file({**tensors, "lm_head.weight": tensors["transformer.wte.weight"].clone()}, tmp_path / "old" / WEIGHTS)
    assert "not used, since they follow from others or change nothing: lm_head.weight" in call(
        "import", tmp_path / "old", "--out", tmp_path / "out"
    ).out  # fmt: skip


def test_a_masked_model_fills_in_and_says_so_as_json(call: Call, bert: Path, tmp_path: Path) -> None:
    facts = json.loads(call("import", bert, "--out", tmp_path / "out", "--json").out)
    assert facts["verbs"] == ["fill", "embed"]
    assert facts["tokenizer"] == "WordPiece"
    assert facts["special"] == {"pad": "[PAD]", "unk": "[UNK]", "mask": "[MASK]", "cls": "[CLS]", "sep": "[SEP]"}
    assert call("fill", tmp_path / "out", "the [MASK] quick").code == 0
    assert call("embed", bert, "the quick").code == 0  # and without being imported


def test_the_cache_of_a_hub_is_read_by_its_main_branch_or_by_snapshot(call: Call, gpt2: Path, tmp_path: Path) -> None:
    repository = in_cache(gpt2, tmp_path / "cache")
    assert call("import", repository, "--out", tmp_path / "a").code == 0
    assert call("import", repository / "snapshots" / ("a" * 40), "--out", tmp_path / "b").code == 0
    assert same(tmp_path / "a", tmp_path / "b")


def test_a_cache_leads_nowhere_but_into_itself(call: Call, gpt2: Path, tmp_path: Path) -> None:
    repository = in_cache(gpt2, tmp_path / "cache")
    config = repository / "snapshots" / ("a" * 40) / "config.json"
    config.unlink()
    shutil.copy(gpt2 / "config.json", tmp_path / "secret")
    config.symlink_to(tmp_path / "secret")
    answer = call("import", repository, "--out", tmp_path / "out")
    assert answer.code == 2
    assert "link that leaves the folder" in answer.err
    (repository / "snapshots" / ("b" * 40)).symlink_to(gpt2)
    write(repository / "refs", {"main": "b" * 40})
    answer = call("import", repository, "--out", tmp_path / "out")
    assert answer.code == 2
    assert "no such model folder" in answer.err
    write(repository / "refs", {"main": "../../.."})
    assert "refs/main names none of them" in call("import", repository, "--out", tmp_path / "out").err


def test_a_name_is_fetched_by_the_hubs_own_client_and_only_the_files_that_are_read(
    call: Call, gpt2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    huggingface_hub = pytest.importorskip("huggingface_hub")
    asked: list[tuple[str, Any]] = []

    def download(name: str, *, allow_patterns: list[str]) -> str:
        asked.append((name, allow_patterns))
        return str(in_cache(gpt2, tmp_path / "cache") / "snapshots" / ("a" * 40))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    answer = call("import", "some/gpt2", "--out", tmp_path / "out")
    assert (answer.code, asked) == (2, [])
    assert "HF_HUB_OFFLINE is set" in answer.err
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    assert call("import", "some/gpt2", "--out", tmp_path / "out").code == 0
    assert [name for name, _ in asked] == ["some/gpt2"]
    assert not any(pattern.endswith((*sources.PICKLES, ".py")) or pattern == "*" for pattern in asked[0][1])
    assert json.loads((tmp_path / "out" / "ciyuan.json").read_text())["provenance"]["source"] == "some/gpt2"


def test_a_hub_that_does_not_answer_is_said_in_a_line(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    huggingface_hub = pytest.importorskip("huggingface_hub")

    def download(name: str, **_: object) -> str:
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    answer = call("import", "some/gpt2", "--out", tmp_path / "out")
    assert answer.code == 2
    assert "could not be fetched: no route" in answer.err


def test_what_is_there_is_not_overwritten(call: Call, gpt2: Path, tmp_path: Path) -> None:
    write(tmp_path / "out", {"mine.txt": "x"})
    answer = call("import", gpt2, "--out", tmp_path / "out")
    assert answer.code == 2
    assert "nothing is overwritten" in answer.err
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["mine.txt"]
    (tmp_path / "empty").mkdir()
    assert call("import", gpt2, "--out", tmp_path / "empty").code == 0


def test_the_eos_of_the_model_goes_before_that_of_the_tokeniser(call: Call, gpt2: Path, tmp_path: Path) -> None:
    shutil.copytree(gpt2, tmp_path / "chat")
    vocabulary = gpt2_vocabulary()
    stop = list(vocabulary)[-2]
    write(
        tmp_path / "chat",
        {
            "tokenizer_config.json": {
                "tokenizer_class": "GPT2Tokenizer",
                "eos_token": stop,
                "pad_token": "<|endoftext|>",
            }
        },
    )
    answer = call("import", tmp_path / "chat", "--out", tmp_path / "out")
    assert "EOS is <|endoftext|>, by config.json" in answer.out
    loaded = ciyuan.load(tmp_path / "out")
    assert loaded.config.eos_id == loaded.tokenizer.eos_id == vocabulary["<|endoftext|>"]
    assert loaded.tokenizer.special.pad is None


def test_a_model_whose_pad_is_its_eos_learns_to_stop_and_writes_in_batches_as_alone(
    call: Call, gpt2: Path, tmp_path: Path
) -> None:
    """Rows are filled with EOS; the EOS of each row is learnt, and no filler is."""
    assert call("import", gpt2, "--out", tmp_path / "out").code == 0
    loaded = ciyuan.load(tmp_path / "out")
    end = loaded.config.eos_id
    assert loaded.config.pad_id == loaded.tokenizer.pad_id == end
    examples = [([5, 6, 7, 8, end], [0, 0, 1, 1, 1]), ([9, end], [1, 1])]
    batches = [Prompted(pad_id=pad).collate(examples) for pad in (end, 3)]
    assert batches[0].targets.tolist() == [[-100, 7, 8, end], [end, -100, -100, -100]]
    losses = [Prompted(pad_id=0).loss(loaded.transformer, batch) for batch in batches]
    assert losses[0].count == losses[1].count == 4
    torch.testing.assert_close(losses[0].sum, losses[1].sum)
    prompts = ["the quick brown fox is in", "中国"]
    alone = [loaded.generate(prompt, max_tokens=5) for prompt in prompts]
    assert loaded.generate(prompts, max_tokens=5) == alone
