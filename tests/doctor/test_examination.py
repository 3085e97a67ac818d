from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ciyuan.data import Corpus, DataSettings
from ciyuan.data.checks import Shape
from ciyuan.doctor import Examination, examine
from ciyuan.doctor.preflight import look_before_training
from ciyuan.errors import DataError
from tests.data.writing import write
from tests.doctor.spoiling import FAULTS, pairs, spoil


def looked(shape: Shape = "pairs", **settings: Any) -> Examination:
    return examine(DataSettings(**{"dev": 0, **settings}), shape)


def found(examined: Examination) -> dict[str, list[int]]:
    """The lines of each kind."""
    return {group.kind: [place.line for place in group.places] for group in examined.groups}


def jsonl(*rows: dict[str, Any]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


@pytest.mark.parametrize("seed", range(3))
def test_every_planted_fault_is_named_with_file_and_line(tmp_path: Path, seed: int) -> None:
    spoiled = spoil(tmp_path, seed)
    examined = looked(train=str(spoiled.path), dev=str(spoiled.dev))
    places = {(group.kind, place.line) for group in examined.groups for place in group.places}
    assert len(spoiled.planted) >= 30
    for name, (kind, line) in spoiled.planted.items():
        near = range(line - 4, line + 5) if kind == "shifted" else [line]
        assert any((kind, one) in places for one in near), (name, kind, line)
    assert all(
        place.file in (str(spoiled.path), str(spoiled.dev)) for group in examined.groups for place in group.places
    )


def test_good_pairs_are_left_alone(tmp_path: Path) -> None:
    good = [(source, target) for source, target in pairs(1200, 0) if 0.12 < len(target) / len(source) < 0.75]
    lines = [f"{source}\t{target}" for source, target in good if not source.startswith(("=", "Command"))]
    path = write(tmp_path / "a.tsv", "\n".join(lines) + "\n")
    examined = looked(train=path)
    assert examined.languages == {"source": "en", "target": "zh"}
    assert examined.count("error") == 0
    assert examined.count("warning") < 0.02 * len(lines)


def test_a_mistake_in_one_line_does_not_hide_the_rest_of_the_file(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.jsonl", '{"en": "one", "zh": "一"}\n{"en": 1, "zh": "一"}\nnonsense\n{"en": "", "zh": "三"}\n'
    )
    examined = looked(train=path)
    assert found(examined) == {"unreadable": [2, 3], "empty": [4]}
    assert examined.examples == 2
    assert "is a number, not text" in examined.groups[0].places[0].note


def test_files_that_are_cut_off_or_not_parallel_are_findings(tmp_path: Path) -> None:
    write(tmp_path / "a.en", "one\ntwo\nthree\n")
    write(tmp_path / "a.zh", "一\n二\n")
    examined = looked(train=(str(tmp_path / "a.en"), str(tmp_path / "a.zh")))
    assert found(examined)["unparallel"] == [3]
    import gzip

    whole = gzip.compress("\n".join(f"{i} a\t{i} b" for i in range(2000)).encode())
    (tmp_path / "b.tsv.gz").write_bytes(whole[: len(whole) // 2])
    (group,) = [group for group in looked(train=str(tmp_path / "b.tsv.gz")).groups if group.kind == "unreadable"]
    assert "ends too soon" in group.places[0].note
    with pytest.raises(DataError, match="no such file"):
        looked(train=str(tmp_path / "c.tsv"))


def test_labels_are_looked_at(tmp_path: Path) -> None:
    rows = [{"text": f"a text of its own, number {i}", "label": "ham"} for i in range(900)]
    rows += [{"text": f"quite another text, number {i}", "label": "spam"} for i in range(30)]
    rows += [{"text": "a text of its own, number 7", "label": "spam"}, {"text": "shout", "label": "Ham"}]
    examined = looked("labelled", train=write(tmp_path / "a.jsonl", jsonl(*rows)))
    lines = found(examined)
    assert lines["conflicting-labels"] == [931]
    assert lines["rare-label"] == lines["label-spelling"] == [932]
    assert lines["imbalance"] == [0]


def test_answers_are_looked_up_in_their_passages(tmp_path: Path) -> None:
    passage = "The token is the unit of text."
    rows = [(passage.index("unit"), "unit"), (0, "unit"), (0, "sentence"), (passage.index("text"), "text")]
    asked = [
        {"question": f"What is it, {i}?", "answers": [{"text": text, "answer_start": start}]}
        for i, (start, text) in enumerate(rows)
    ]
    squad = {"data": [{"paragraphs": [{"context": passage, "qas": asked}]}]}
    lines = found(looked("answers", train=write(tmp_path / "a.json", json.dumps(squad))))
    assert lines["answer-offset"] == [2]
    assert lines["answer-missing"] == [3]


def test_turns_out_of_order_are_found(tmp_path: Path) -> None:
    def chat(*roles: str) -> dict[str, Any]:
        return {
            "messages": [
                {"role": role, "content": f"words of {role}, {len(roles)}, {i}"} for i, role in enumerate(roles)
            ]
        }

    rows = [chat("user", "assistant"), chat("assistant", "user"), chat("user", "user", "assistant"),
            chat("user", "system", "assistant"), chat("system", "user", "assistant")]  # fmt: skip
    lines = found(looked("chats", train=write(tmp_path / "a.jsonl", jsonl(*rows))))
    assert lines["turns"] == [2, 3, 4]


def test_what_is_lost_at_a_length_is_counted_in_tokens(tmp_path: Path) -> None:
    from ciyuan.text import Tokenizer
    from ciyuan.text.settings import TokenizerSettings

    path = write(tmp_path / "a.tsv", "ab\tcd\n" + "ab" * 30 + "\tcd\n")
    tokenizer = Tokenizer.train(["abcd"], TokenizerSettings(kind="characters", vocab_size=40))
    examined = examine(DataSettings(train=path, dev=0, max_length=20), "pairs", tokenizer=tokenizer)
    assert found(examined)["truncation"] == [2]


def test_a_slip_within_a_file_is_placed(tmp_path: Path) -> None:
    good = pairs(300, 2000)
    targets = [target for _, target in good]
    targets[120:] = ["多出的一行。", *targets[120:-1]]
    path = write(
        tmp_path / "a.tsv", "".join(f"{source}\t{target}\n" for (source, _), target in zip(good, targets, strict=True))
    )
    (group,) = [group for group in looked(train=path).groups if group.kind == "shifted"]
    assert abs(group.places[0].line - 121) <= 5
    assert group.places[0].last is not None
    assert group.places[0].last > 290
    assert "1 line earlier" in group.places[0].note


def test_before_training_the_doctor_says_what_matters(tmp_path: Path) -> None:
    rows = pairs(200, 100)
    spoilt = [(source, source if i % 4 == 0 else target) for i, (source, target) in enumerate(rows)]
    path = write(tmp_path / "a.tsv", "".join(f"{source}\t{target}\n" for source, target in spoilt))
    remarks = look_before_training(Corpus(DataSettings(train=path, dev=10, source="en", target="zh")))
    assert any("the target is the source" in line for line in remarks.warnings)
    assert len(remarks.messages) <= 2
    clean = write(tmp_path / "b.tsv", "".join(f"word{i} is\t词{i}\n" for i in range(50)))
    assert look_before_training(Corpus(DataSettings(train=clean, dev=5, source="en", target="zh"))).warnings == ()


def test_the_faults_are_of_more_than_twenty_kinds() -> None:
    assert len({fault.kind for fault in FAULTS.values()}) >= 20
