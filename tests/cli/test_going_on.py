"""Going on with a run, proving that it can be gone on with, and looking up what it was trained on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from ciyuan.recipe import rehearsal, running
from ciyuan.recipe.rehearsal import Verdict
from ciyuan.training.ledger import HEAD, RECORD
from tests.cli.conftest import Call
from tests.tiny import options, write_pairs

STEPS = options("training.steps=12", "training.minutes=null")


@pytest.fixture
def copy(trained: Path, tmp_path: Path) -> Path:
    """A finished run that may be spoiled."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


def files(folder: Path) -> dict[Path, tuple[int, bytes]]:
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.rglob("*") if path.is_file()}


def test_a_finished_run_asked_to_go_on_changes_nothing_and_tells_its_scores(
    call: Call, trained: Path, pairs: Path
) -> None:
    before = files(trained)
    found = call("train", "translate", "--data", pairs, "--out", trained, "--resume", "--json", *STEPS)
    assert found.code == 0, found.err
    assert "is finished (step 12, steps): nothing to do" in found.err
    assert json.loads(found.out)["metrics"] == json.loads((trained / "ciyuan.json").read_text())["scores"]
    assert files(trained) == before


def test_a_run_goes_on_only_with_its_own_recipe(call: Call, trained: Path, pairs: Path) -> None:
    for option, said in (
        ("model.dropout=0.3", "model.dropout was None when the run began and is 0.3"),
        ("data.dev=13", "data.dev was 12 when the run began and is 13"),
        ("tokenizer.vocab_size=401", "tokenizer.vocab_size was 400 when the run began and is 401"),
    ):
        found = call("train", "translate", "--data", pairs, "--out", trained, "--resume", *STEPS, "--set", option)
        assert found.code == 2
        assert said in found.err
        assert f"ciyuan train {trained / 'recipe.yaml'} --out {trained} --resume" in found.err


def test_a_run_goes_on_only_with_its_own_data(call: Call, copy: Path, tmp_path: Path) -> None:
    (copy / "report.html").unlink()
    other = write_pairs(tmp_path / "other.tsv", seed=5)
    found = call("train", "translate", "--data", other, "--out", copy, "--resume", *STEPS)
    assert found.code == 2
    assert "the data is not what the run was begun with" in found.err
    assert "other.tsv" in found.err


def test_a_run_killed_before_its_report_gets_it(call: Call, copy: Path, pairs: Path) -> None:
    (copy / "report.html").unlink()
    before = {
        name: (copy / name).read_bytes() for name in ("model.safetensors", "metrics.jsonl", "ledger.bin", "ciyuan.json")
    }
    found = call("train", "translate", "--data", pairs, "--out", copy, "--resume", *STEPS)
    assert found.code == 0, found.err
    assert (copy / "report.html").exists()
    assert {name: (copy / name).read_bytes() for name in before} == before


def test_the_run_folders_own_recipe_goes_on_from_elsewhere(call: Call, copy: Path, pairs: Path, tmp_path: Path) -> None:
    (copy / "report.html").unlink()
    moved = tmp_path / "moved.tsv"
    moved.write_bytes(pairs.read_bytes())
    found = call("train", copy / "recipe.yaml", "--data", moved, "--out", copy, "--resume")
    assert found.code == 0, found.err


def test_a_damaged_lexicon_is_made_again(call: Call, copy: Path, pairs: Path) -> None:
    (copy / "report.html").unlink()
    lexicon = copy / "lexicon.safetensors"
    whole = lexicon.read_bytes()
    lexicon.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    found = call("train", "translate", "--data", pairs, "--out", copy, "--resume", *STEPS)
    assert found.code == 0, found.err
    assert "lexicon.safetensors: is damaged" in found.err
    assert lexicon.read_bytes() == whole


def test_the_same_run_leaves_the_same_bytes(call: Call, trained: Path, tmp_path: Path) -> None:
    found = call("train", trained / "recipe.yaml", "--out", tmp_path / "again")
    assert found.code == 0, found.err
    for name in ("model.safetensors", "ledger.bin", "tokenizer.json"):
        assert (tmp_path / "again" / name).read_bytes() == (trained / name).read_bytes(), name


def test_a_warning_of_the_run_is_named_again_at_its_end_and_in_the_report(
    call: Call, tmp_path: Path, pairs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "unknown_share", lambda store, tokenizer: 0.25)
    steps = options("training.steps=2", "training.minutes=null")
    found = call("train", "translate", "--data", pairs, "--out", tmp_path / "run", *steps)
    assert found.code == 0, found.err
    assert len([line for line in found.lines if "25.0% of the tokens are unknown" in line]) == 2
    assert any(line.startswith("warnings of this run") for line in found.lines)
    assert "25.0% of the tokens are unknown" in (tmp_path / "run/report.html").read_text(encoding="utf-8")


# --- What a step used --------------------------------------------------------------------------------------------------


def test_a_step_shows_its_texts(call: Call, trained: Path, pairs: Path) -> None:
    known = set(pairs.read_text(encoding="utf-8").splitlines())
    found = call("inspect", trained, "--step", "3")
    assert found.code == 0, found.err
    assert "does not vouch" not in found.err
    shown = [line.partition("\t")[2] for line in found.out.splitlines()]
    assert len(shown) > 4
    assert set(shown) <= known
    as_json = json.loads(call("inspect", trained, "--step", "3", "--json").out)
    assert as_json["vouched"]
    assert ["\t".join(example["texts"]) for example in as_json["examples"]] == shown


def test_a_text_is_found_with_its_steps(call: Call, trained: Path) -> None:
    step = json.loads(call("inspect", trained, "--step", "5", "--json").out)
    example = step["examples"][0]
    found = json.loads(call("inspect", trained, "--find", example["texts"][1], "--json").out)
    assert found["trained_on"]
    assert found["vouched"]
    hit = next(one for one in found["examples"] if one["number"] == example["number"])
    assert 5 in hit["steps"]
    for other in hit["steps"]:
        numbers = [
            one["number"] for one in json.loads(call("inspect", trained, "--step", other, "--json").out)["examples"]
        ]
        assert example["number"] in numbers


def test_a_text_that_is_nowhere_is_said_to_be_nowhere(call: Call, trained: Path) -> None:
    found = call("inspect", trained, "--find", "北京")
    assert found.code == 0
    assert found.out.startswith("no: ")


def test_a_step_that_was_fed_something_else_is_not_vouched_for(call: Call, copy: Path) -> None:
    ledger = copy / "ledger.bin"
    data = bytearray(ledger.read_bytes())
    data[len(HEAD) + 2 * RECORD] ^= 1
    ledger.write_bytes(data)
    assert "does not vouch" in call("inspect", copy, "--step", "3").err
    assert "does not vouch" not in call("inspect", copy, "--step", "4").err


def test_a_step_that_was_not_made_and_a_folder_that_is_no_run_are_refused(
    call: Call, trained: Path, tmp_path: Path
) -> None:
    found = call("inspect", trained, "--step", "13")
    assert (found.code, "steps 1 to 12" in found.err) == (2, True)
    found = call("inspect", tmp_path, "--step", "1")
    assert (found.code, "manifest.json" in found.err) == (2, True)
    assert call("inspect", trained, "--find", "").code == 2


def test_data_that_was_changed_since_is_not_shown_as_if_it_had_been_used(
    call: Call, copy: Path, tmp_path: Path
) -> None:
    recipe = (copy / "recipe.yaml").read_text(encoding="utf-8")
    manifest = json.loads((copy / "manifest.json").read_text(encoding="utf-8"))
    other = write_pairs(tmp_path / "other.tsv", seed=5)
    (copy / "recipe.yaml").write_text(recipe.replace(manifest["data"]["files"][0], str(other)), encoding="utf-8")
    found = call("inspect", copy, "--step", "1")
    assert (found.code, "is not what the run was trained on" in found.err) == (2, True)


# --- Proving it --------------------------------------------------------------------------------------------------------


def test_a_resume_is_proven_on_the_users_recipe_and_nothing_stays(call: Call, pairs: Path, tmp_path: Path) -> None:
    found = call(
        "train",
        "translate",
        "--data",
        pairs,
        "--out",
        tmp_path / "run",
        "--verify-resume",
        *options("training.average=ema"),
    )
    assert found.code == 0, found.err
    assert found.out.startswith("ok: 8 steps straight, and 5 steps, kill -9, --resume, 3 more end in the same bits")
    assert "tensors of optimizer" in found.out
    assert list(tmp_path.iterdir()) == []


def test_data_that_cannot_be_used_is_said_as_ever(call: Call, tmp_path: Path) -> None:
    found = call(
        "train", "translate", "--data", tmp_path / "none.tsv", "--out", tmp_path / "run", "--verify-resume", *options()
    )
    assert found.code == 2
    assert "none.tsv" in found.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        ("metrics", "loss of step 4"),
        ("ledger", "what step 3 was fed"),
        ("weights", "weights: "),
        ("model", "model.safetensors"),
    ],
)
def test_what_differs_first_is_named(copy: Path, trained: Path, spoil: str, said: str) -> None:
    if spoil == "metrics":
        lines = [json.loads(line) for line in (copy / "metrics.jsonl").read_text().splitlines()]
        next(line for line in lines if line["step"] == 4)["loss"] += 1e-9
        (copy / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    elif spoil == "ledger":
        data = bytearray((copy / "ledger.bin").read_bytes())
        data[len(HEAD) + 2 * RECORD] ^= 1
        (copy / "ledger.bin").write_bytes(data)
    elif spoil == "model":
        data = bytearray((copy / "model.safetensors").read_bytes())
        data[-1] ^= 1
        (copy / "model.safetensors").write_bytes(data)
    else:
        from ciyuan.training.checkpoint import Checkpoints

        kept = Checkpoints(copy / "checkpoints")
        newest = kept.latest(pytest.fail)
        assert newest is not None
        next(iter(newest.tensors["weights"].values())).view(-1)[0] += 1e-7
        kept.save(newest.step, newest.tensors, newest.numbers)
    compared: dict[str, int] = {}
    difference = next(rehearsal._differences(trained, copy, compared))
    assert difference.startswith(said)
    lines = Verdict(8, 5, compared, difference).lines()
    assert "NOT the same" in lines[0]
    assert said in lines[1]
    assert next(rehearsal._differences(trained, trained, {}), None) is None
