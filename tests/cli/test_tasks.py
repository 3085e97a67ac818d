"""Each recipe from bundled real text to answers, small: trained, reported, scored, asked, and compared with itself."""

from __future__ import annotations

import json
import lzma
import re
from collections.abc import Callable
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import pytest

import ciyuan
from tests.cli.conftest import Answer, Call

DATA = Path(__file__).resolve().parents[2] / "examples/data"
SMALL = (
    "training.steps=4", "training.threads=1", "training.batch_tokens=600", "training.log_every=2", "data.max_length=64",
    "tokenizer.vocab_size=1500", "model.d_model=32", "model.n_layers=1", "model.n_heads=2", "model.d_ff=32",
)  # fmt: skip
DECODER = (*SMALL, "model.n_kv_heads=1", "model.max_positions=128")
SEQ2SEQ = (*SMALL, "model.n_decoder_layers=1")
ON_A_GIVEN_MODEL = SMALL[:5]


def options(*settings: str) -> list[str]:
    return [part for text in settings for part in ("--set", text)]


def head(name: str, n_lines: int, path: Path) -> Path:
    """The first lines of a bundled text."""
    with lzma.open(DATA / name, "rt", encoding="utf-8") as lines:
        path.write_text("".join(islice(lines, n_lines)), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("texts")
    found = {
        "zh": head("sanguo.zh.txt.xz", 160, folder / "sanguo.txt"),
        "en": head("moby-dick.en.txt.xz", 500, folder / "moby.txt"),
    }
    # Eight short laws, so that several documents are held out.
    with lzma.open(DATA / "law.zh.txt.xz", "rt", encoding="utf-8") as file:
        laws = file.read().split("\n\n")
    found["laws"] = folder / "laws.txt"
    found["laws"].write_text("\n\n".join("\n".join(law.split("\n")[:9]) for law in laws[:60]), encoding="utf-8")
    with lzma.open(DATA / "law.zh.train.jsonl.xz", "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in islice(lines, 0, None, 60)]
    found["labelled"] = folder / "labelled.jsonl"
    write(found["labelled"], rows)
    found["several"] = folder / "several.jsonl"
    write(found["several"], [{"text": row["text"], "label": [row["label"], "条文"]} for row in rows])
    found["paired"] = folder / "paired.jsonl"
    write(found["paired"], [
        {"text": one["text"], "second": two["text"], "label": "same" if one["label"] == two["label"] else "other"}
        for one, two in pairwise(rows)
    ])  # fmt: skip
    found["questions"] = folder / "questions.json"
    found["questions"].write_text(json.dumps(questions(laws), ensure_ascii=False), encoding="utf-8")
    found["chats"] = folder / "chats.jsonl"
    pairs = [line.split("\t") for line in (DATA / "help.en-zh.dev.tsv").read_text(encoding="utf-8").splitlines()[:120]]
    write(found["chats"], [
        {"messages": [{"role": "system", "content": "你是翻译。"}, {"role": "user", "content": one},
                      {"role": "assistant", "content": two}]} for one, two in pairs
    ])  # fmt: skip
    return found


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def questions(laws: list[str]) -> dict[str, Any]:
    """What the statutes themselves define, "本法所称X，是指Y。", as questions in SQuAD's shape."""
    paragraphs = []
    for line in "\n".join(laws).split("\n"):
        found = re.search(r"本法所称的?(\w{2,10})，?是指([^。；]{4,60})。", line)
        if found and len(line) < 300:
            answer = {"text": found[2], "answer_start": found.start(2)}
            paragraphs.append({"context": line, "qas": [{"question": f"{found[1]}是指什么？", "answers": [answer]}]})
    assert len(paragraphs) > 40
    return {"data": [{"title": "定义", "paragraphs": paragraphs[:60]}]}


Train = Callable[..., Path]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture
def train(call: Call, runs: Path, texts: dict[str, Path]) -> Train:
    """Train once under a name; what is there already is used again."""

    def training(name: str, recipe: str, data: str, *settings: str, init: Path | None = None) -> Path:
        out = runs / name
        if not out.exists():
            start = [] if init is None else ["--init", init]
            found = call("train", recipe, "--data", texts[data], "--out", out, "--json", *start, *options(*settings))
            assert found.code == 0, found.err
            outcome = json.loads(found.out)
            assert outcome["task"] == recipe
            assert outcome["metrics"]
            assert "as the model sees it" in found.err
            used = json.loads(call("inspect", out, "--step", "2", "--json").out)
            assert used["vouched"]
            assert all(any(example["texts"]) for example in used["examples"])
            (runs / f"{name}.log").write_text(found.err, encoding="utf-8")
        return out

    return training


@pytest.fixture
def evaluate(call: Call, texts: dict[str, Path]) -> Callable[[Path, str], dict[str, Any]]:
    """The scores of a model, and of the same model against itself, whose difference is none."""

    def evaluating(model: Path, data: str) -> dict[str, Any]:
        found = call("evaluate", model, "--data", texts[data], "--json", "--against", model)
        assert found.code == 0, found.err
        scores: dict[str, Any] = json.loads(found.out)
        for one in scores["against"]["comparisons"].values():
            assert (one["difference"], one["better"]) == (0.0, None)
        return scores

    return evaluating


Evaluate = Callable[[Path, str], dict[str, Any]]


def said(found: Answer) -> list[str]:
    assert found.code == 0, found.err
    return found.out.splitlines()


@pytest.mark.parametrize("language", ["zh", "en"])
def test_a_decoder_learns_running_text_and_continues_it(
    language: str, train: Train, evaluate: Evaluate, call: Call
) -> None:
    model = train(f"decoder-{language}", "causal-lm", language, *DECODER, "data.dev=12")
    scores = evaluate(model, language)
    assert 0 < scores["metrics"]["bits_per_byte"] < 12
    assert scores["signatures"]["bits_per_byte"].startswith("bytes:utf-8")
    prompt = {"zh": "却说曹操", "en": "Call me"}[language]
    drawn = ["generate", model, "--prompt", prompt, "--max-tokens", 12, "--temperature", 1, "--top-p", 0.9, "--seed", 3]
    first, second = (json.loads(call(*drawn, "--json").out) for _ in range(2))
    assert first == second
    assert first["usage"]["completion_tokens"] <= 12
    assert len(first["log_probs"]) >= first["usage"]["completion_tokens"]
    streamed = call(*drawn).out
    assert streamed == f"{prompt}{first['text']}\n"
    assert (
        said(call("generate", model, "--max-tokens", 5, stdin=f"{prompt}\n{prompt}\n".encode()))
        == [ciyuan.load(model).generate(prompt, max_tokens=5).replace("\n", " ")] * 2
    )


@pytest.mark.parametrize("data", ["laws", "en"])
def test_an_encoder_learns_to_fill_in(data: str, train: Train, evaluate: Evaluate, call: Call) -> None:
    model = train(f"encoder-{data}", "masked-lm", data, *SMALL, "data.dev=12")
    scores = evaluate(model, data)
    assert 0 <= scores["metrics"]["masked_accuracy"] <= 100
    text = {"laws": "本法自公布之日起[MASK]行。", "en": "Call me [MASK]."}[data]
    masks = json.loads(said(call("fill", model, text, "-k", 4, "--json"))[0])["masks"]
    assert [len(mask) for mask in masks] == [4]
    probabilities = [one["probability"] for one in masks[0]]
    assert probabilities == sorted(probabilities, reverse=True)
    assert call("fill", model, "no blank here").code == 2
    vectors = [[float(value) for value in line.split()] for line in said(call("embed", model, "一", "二"))]
    assert [len(vector) for vector in vectors] == [32, 32]


def test_whole_words_are_masked_in_chinese_too(train: Train, runs: Path) -> None:
    train("encoder-laws", "masked-lm", "laws", *SMALL, "data.dev=12")
    shown = (runs / "encoder-laws.log").read_text(encoding="utf-8")
    assert re.search(r"«\S+→\S \S+→\S", shown), "a word of two characters is hidden as a whole"


def test_masking_and_the_next_sentence_are_learnt_together(train: Train, evaluate: Evaluate) -> None:
    bert = ("model.preset=bert-2018", "objective.next_sentence=true", "data.dev=60")
    model = train("bert", "masked-lm", "laws", *SMALL, *bert)
    info = json.loads((model / "ciyuan.json").read_text(encoding="utf-8"))
    assert {"masked_accuracy", "next_sentence_accuracy"} <= set(info["scores"])
    assert json.loads((model / "config.json").read_text(encoding="utf-8"))["architectures"] == ["BertForPreTraining"]
    logged = [json.loads(line) for line in (model / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    learnt = next(line for line in logged if "loss" in line)
    assert {"mlm_nll", "mlm_accuracy", "nsp_nll", "nsp_accuracy"} <= {*learnt, *learnt.get("metrics", {})}
    evaluate(model, "laws")


def test_random_pairs_need_two_held_out_documents(call: Call, texts: dict[str, Path], tmp_path: Path) -> None:
    found = call(
        "train", "masked-lm", "--data", texts["laws"], "--out", tmp_path / "x",
        *options(*SMALL, "model.preset=bert-2018", "objective.next_sentence=true", "data.dev=9"),
    )  # fmt: skip
    assert found.code == 2
    assert "random pairs need two" in found.err
    assert not (tmp_path / "x").exists()


def test_a_classifier_starts_from_an_encoder(train: Train, evaluate: Evaluate, call: Call, runs: Path) -> None:
    encoder = train("encoder-laws", "masked-lm", "laws", *SMALL, "data.dev=12")
    settings = (*ON_A_GIVEN_MODEL, "data.group=law", "data.dev=80", "objective.class_weights=balanced",
                "training.layer_decay=0.8", "training.freeze=embeddings")  # fmt: skip
    model = train("classifier", "classify", "labelled", *settings, init=encoder)
    log = (runs / "classifier.log").read_text(encoding="utf-8")
    assert "new, to be learnt: classifier.scores.weight, classifier.scores.bias" in log
    assert "of the given model, not used: head.bias" in log
    assert "frozen: " in log
    scores = evaluate(model, "labelled")
    assert {"macro_f1", "accuracy"} <= set(scores["metrics"])
    assert "What it takes for what" in (model / "report.html").read_text(encoding="utf-8")
    label, _, probability = said(call("classify", model, "为了保护环境，制定本法。"))[0].partition("\t")
    labels = json.loads((model / "ciyuan.json").read_text(encoding="utf-8"))["labels"]
    assert label in labels
    assert 1 / len(labels) <= float(probability) <= 1
    assert ciyuan.load(model).classify("为了保护环境，制定本法。").labels == (label,)


def test_texts_may_have_several_labels_and_come_in_pairs(train: Train, evaluate: Evaluate, call: Call) -> None:
    several = train("several", "classify", "several", *SMALL, "data.multi_label=true", "data.dev=60")
    assert "micro_f1" in evaluate(several, "several")["metrics"]
    row = json.loads(said(call("classify", several, "制定本法。", "--json"))[0])
    assert set(row["labels"]) <= set(row["probabilities"])
    paired = train("paired", "classify", "paired", *SMALL, "data.second=second", "data.dev=60")
    evaluate(paired, "paired")
    assert said(call("classify", paired, "--pairs", "甲\t乙"))[0].split("\t")[0] in ("same", "other")
    assert call("classify", paired, "--pairs", "no tab").code == 2


def test_an_encoder_points_at_answers(train: Train, evaluate: Evaluate, call: Call, texts: dict[str, Path]) -> None:
    encoder = train("encoder-laws", "masked-lm", "laws", *SMALL, "data.dev=12")
    model = train(
        "pointer", "answer", "questions", *ON_A_GIVEN_MODEL, "data.dev=10", "objective.stride=8", init=encoder
    )
    scores = evaluate(model, "questions")
    assert {"exact_match", "f1"} <= set(scores["metrics"])
    assert "CMRC" in scores["signatures"]["f1"]
    passage = "本法所称专利，是指发明。"
    row = json.loads(said(call("answer", model, "-q", "专利是指什么？", "-p", passage, "--json"))[0])
    if row["answer"]:
        assert passage[row["start"] : row["end"]] == row["answer"]
    n_questions = len(json.loads(texts["questions"].read_text(encoding="utf-8"))["data"][0]["paragraphs"])
    assert len(said(call("answer", model, "--input", texts["questions"]))) == n_questions


@pytest.mark.parametrize(
    ("name", "settings"),
    [("decoder", (*DECODER, "model.preset=modern-decoder")), ("seq2seq", (*SEQ2SEQ, "model.preset=modern-seq2seq"))],
)
def test_the_other_families_write_answers(
    name: str, settings: tuple[str, ...], train: Train, evaluate: Evaluate, call: Call
) -> None:
    kind = ("tokenizer.kind=char-bpe", "data.max_length=120", "data.dev=10", "objective.max_answer=6")
    model = train(f"writer-{name}", "answer", "questions", *settings, *kind)
    assert {"exact_match", "f1"} <= set(evaluate(model, "questions")["metrics"])
    assert len(said(call("answer", model, "-q", "专利是指什么？", "-p", "本法所称专利，是指发明。"))) == 1


def test_an_assistant_learns_its_own_words_alone(
    train: Train, evaluate: Evaluate, call: Call, runs: Path, texts: dict[str, Path]
) -> None:
    decoder = train("decoder-zh", "causal-lm", "zh", *DECODER, "data.dev=12")
    model = train(
        "assistant", "chat", "chats", *ON_A_GIVEN_MODEL[:4], "data.max_length=100", "data.dev=10", init=decoder
    )
    log = (runs / "assistant.log").read_text(encoding="utf-8")
    assert "learnt: " in log
    assert "<|im_end|>»" in log, "the end of a turn is learnt"
    ends = json.loads((model / "generation_config.json").read_text(encoding="utf-8"))["eos_token_id"]
    tokenizer = ciyuan.load(model).tokenizer
    assert ends == [tokenizer.eos_id, tokenizer.id_of_token("<|im_end|>")], "other tools stop at the end of a turn too"
    assert evaluate(model, "chats")["metrics"]["perplexity"] > 1
    lines = said(call("chat", model, "--max-tokens", 4, stdin="你好\n再见\n".encode()))
    assert len(lines) >= 2


def test_translation_starts_from_denoised_text(train: Train, call: Call, tmp_path: Path) -> None:
    base = train("base", "denoise", "en", *SEQ2SEQ, "tokenizer.vocab_size=2000", "data.dev=20")
    pairs = tmp_path / "pairs.tsv"
    pairs.write_text("".join(f"word {i}\tWort {i}\n" for i in range(80)), encoding="utf-8")
    found = call(
        "train", "translate", "--init", base, "--data", pairs, "--out", tmp_path / "run",
        *options(*ON_A_GIVEN_MODEL, "data.dev=10", "data.source=en", "data.target=de"),
    )  # fmt: skip
    assert found.code == 0, found.err
    assert call("evaluate", base, "--data", pairs).code == 2


def test_a_verb_that_is_not_the_models_is_refused_in_words(train: Train, call: Call) -> None:
    model = train("encoder-laws", "masked-lm", "laws", *SMALL, "data.dev=12")
    for verb in (["translate", model, "a"], ["classify", model, "a"], ["generate", model, "-p", "a"]):
        found = call(*verb)
        assert found.code == 2
        assert "what it does: fill, embed" in found.err
        assert len(found.lines) <= 3
