"""RoBERTa reads two texts as `<s> a </s></s> b </s>`, without token types: pairs and answers, before and after learning here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import ciyuan
from ciyuan.interop import save_model_folder
from ciyuan.objectives import Classification
from ciyuan.prediction.reading import between
from tests.parity.reference import transformers
from tests.text.foreign import gpt2_vocabulary, merges, write
from tests.text.test_imported import FAIRSEQ

pytestmark = pytest.mark.filterwarnings("ignore")  # those of transformers, which are not ours to mend

FIRST = ["the quick brown fox", "选择「文件」-「打印」", "Hello, World's naïve ABC", "def f(x):"]
SECOND = ["is in 北京", "打开帮助菜单。", "", "return x + 1  # 注释 and more of it"]
LABELS = {"id2label": {0: "天", 1: "地", 2: "人"}, "label2id": {"天": 0, "地": 1, "人": 2}}


def folder_of(kind: str, folder: Path) -> Path:
    vocabulary = gpt2_vocabulary(FAIRSEQ, ["<mask>"])
    cls = getattr(transformers, f"Roberta{kind}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = transformers.RobertaConfig(
            vocab_size=len(vocabulary), hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24,
            max_position_embeddings=60, type_vocab_size=1, **(LABELS if kind == "ForSequenceClassification" else {}),
        )  # fmt: skip
        model = cls(config)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.15 * torch.randn(parameter.shape))
    model.save_pretrained(folder)
    return write(folder, {"vocab.json": vocabulary, "merges.txt": merges()[1]})


def theirs_of(folder: Path, kind: str) -> tuple[Any, Any]:
    return (
        transformers.AutoTokenizer.from_pretrained(folder),
        getattr(transformers, f"AutoModel{kind}").from_pretrained(folder).eval(),
    )


@torch.no_grad()
def assert_classified_alike(folder: Path) -> None:
    reader, theirs = theirs_of(folder, "ForSequenceClassification")
    model = ciyuan.load(folder)
    for first, second in ((FIRST, SECOND), (FIRST, None)):
        read = reader(first, second, return_tensors="pt", padding=True)
        wanted = theirs(**read).logits.softmax(dim=-1)
        found = model.classify(first, second)
        values = torch.tensor([[one.probabilities[label] for label in "天地人"] for one in found])
        torch.testing.assert_close(values, wanted, rtol=1e-5, atol=1e-6)


def test_pairs_are_classified_as_theirs_before_and_after_learning(tmp_path: Path) -> None:
    assert_classified_alike(folder_of("ForSequenceClassification", tmp_path / "theirs"))
    model = ciyuan.load(tmp_path / "theirs")
    tokenizer = model.tokenizer
    parting = between(model.transformer, tokenizer)
    assert parting == (tokenizer.sep_id, tokenizer.sep_id)
    objective = Classification(
        pad_id=model.config.pad_id, head_id=tokenizer.cls_id, tail_id=tokenizer.sep_id, between=parting, n_labels=3, pairs=True,
    )  # fmt: skip
    reader, _ = theirs_of(tmp_path / "theirs", "ForSequenceClassification")
    pairs = [(tokenizer.encode(a), tokenizer.encode(b), [i % 3]) for i, (a, b) in enumerate(zip(FIRST, SECOND))]
    batch = objective.collate(pairs)
    assert batch.text.tokens.tolist() == reader(FIRST, SECOND, padding=True)["input_ids"]
    optimizer = torch.optim.SGD(model.transformer.parameters(), lr=0.05)
    losses = []
    for _ in range(4):
        optimizer.zero_grad()
        loss = objective.loss(model.transformer, batch)
        (loss.sum / loss.count).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(float(loss.sum.detach()))
    assert losses[-1] < losses[0]
    save_model_folder(tmp_path / "ours", model.transformer, tokenizer, dict(model.info), "")
    assert_classified_alike(tmp_path / "ours")


@torch.no_grad()
def test_answers_are_the_best_spans_of_their_scores(tmp_path: Path) -> None:
    folder = folder_of("ForQuestionAnswering", tmp_path / "theirs")
    model = ciyuan.load(folder)
    save_model_folder(tmp_path / "ours", model.transformer, model.tokenizer, dict(model.info), "")
    for place in (folder, tmp_path / "ours"):
        reader, theirs = theirs_of(place, "ForQuestionAnswering")
        for question, passage in zip(
            FIRST, ("is in 北京, and the quick brown fox", "打开帮助菜单。", "ABC World", "x + 1")
        ):
            read = reader(question, passage, return_tensors="pt", return_offsets_mapping=True)
            offsets = read.pop("offset_mapping")[0].tolist()
            out = theirs(**read)
            starts, ends = out.start_logits[0].double(), out.end_logits[0].double()
            of_passage = [i for i, side in enumerate(read.sequence_ids(0)) if side == 1]
            score, first, last = max(
                (float(starts[i] + ends[j]), -i, -j) for i in of_passage for j in of_passage if i <= j < i + 48
            )
            null = float(starts[0] + ends[0])
            found = ciyuan.load(place).answer(question, passage)
            assert found.null_score == pytest.approx(null, abs=1e-4)
            assert found.score == pytest.approx(score, abs=1e-4)
            text = passage[offsets[-first][0] : offsets[-last][1]].strip()
            assert found.text == (text if score > null else "")
