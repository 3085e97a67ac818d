"""What is hostile in tokenisers, shards, hub caches and single files: `ciyuan import` refuses each, and nothing happens."""

from __future__ import annotations

import json
import os
import pickle
import resource
import shutil
import struct
import sys
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from ciyuan.cli.main import main
from tests.interop.folders import saved
from tests.interop.test_hostile import Bomb, changed, header, linked, removed, written
from tests.text.foreign import (
    CHARSMAP,
    PANICS,
    UNKNOWN,
    bert_vocabulary,
    gpt2_vocabulary,
    merges,
    piece,
    sentencepiece_model,
    write,
)

Attack = Callable[[Path], object]
CONFIG, TOKENS, JSON, WEIGHTS = "config.json", "tokenizer_config.json", "tokenizer.json", "model.safetensors"
INDEX = "model.safetensors.index.json"

# --- What Python does meanwhile ----------------------------------------------------------------------------------------

NEVER = (
    "socket",
    "subprocess",
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.fork",
    "pickle.find_class",
    "webbrowser",
    "ftplib",
)
OURS = tuple(str(Path(place).resolve()) for place in (sys.prefix, sys.base_prefix, Path(__file__).parents[2] / "src"))
HEARD: list[tuple[str, str]] = []
LISTENING: list[bool] = []


def listen(event: str, arguments: tuple[object, ...]) -> None:
    if LISTENING and (event == "open" or event.startswith(NEVER)):
        HEARD.append((event, str(arguments[0]) if arguments else ""))


sys.addaudithook(listen)


def strange(folder: Path) -> list[tuple[str, str]]:
    """What was heard, less the opening of files in the folder and of Python's own."""
    allowed = (str(folder), os.devnull, *OURS)
    return [
        (event, what) for event, what in HEARD if event != "open" or not (what.isdigit() or what.startswith(allowed))
    ]


# --- What is done to a folder ------------------------------------------------------------------------------------------


def instead(*gone: str, **files: object) -> Attack:
    """Other files for some of the folder's; in a name, __ is a point."""

    def attack(folder: Path) -> None:
        for name in gone:
            (folder / name).unlink()
        write(folder, {name.replace("__", "."): content for name, content in files.items()})

    return attack


def vocabulary(kind: str, *, settings: dict[str, object] | None = None, **files: object) -> Attack:
    """Another tokeniser than tokenizer.json, of a class that reads such files."""
    return instead(JSON, tokenizer_config__json={"tokenizer_class": f"{kind}Tokenizer", **(settings or {})}, **files)


def both(*attacks: Attack) -> Attack:
    def attack(folder: Path) -> None:
        for each in attacks:
            each(folder)

    return attack


def tokenizer_json(change: Callable[[dict[str, Any]], object]) -> Attack:
    def attack(folder: Path) -> None:
        found = json.loads((folder / JSON).read_text())
        change(found)
        (folder / JSON).write_text(json.dumps(found))

    return attack


def shards(change: Callable[[Path, dict[str, str]], object]) -> Attack:
    """The weights in two files and an index, and then something done to them."""

    def attack(folder: Path) -> None:
        tensors = load_file(folder / WEIGHTS)
        names = sorted(tensors)
        places = {name: f"model-{1 + i % 2:05}-of-00002.safetensors" for i, name in enumerate(names)}
        for file in set(places.values()):
            save_file({name: tensors[name] for name in names if places[name] == file}, folder / file)
        (folder / WEIGHTS).unlink()
        (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": places}))
        change(folder, places)

    return attack


def index(folder: Path, places: object) -> None:
    (folder / INDEX).write_text(json.dumps({"weight_map": places}))


FIRST, SECOND = (f"model-{i:05}-of-00002.safetensors" for i in (1, 2))


def shard_twice(folder: Path, places: dict[str, str]) -> None:
    save_file({**load_file(folder / SECOND), **load_file(folder / FIRST)}, folder / SECOND)


def shard_out(folder: Path, places: dict[str, str]) -> None:
    (folder / SECOND).rename(folder.parent / "secret.safetensors")
    (folder / SECOND).symlink_to(folder.parent / "secret.safetensors")


def pipe(name: str) -> Attack:
    return lambda folder: os.mkfifo(folder / name)


def link(name: str, content: object) -> Attack:
    """A file that is a link out of the folder."""

    def attack(folder: Path) -> None:
        write(folder.parent, {"secret": content})
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(folder.parent / "secret")

    return attack


def raw_header(text: bytes) -> Attack:
    return written(WEIGHTS, struct.pack("<Q", len(text)) + text)


DEEP = b'{"a":' + b"[" * 200_000
SPM = sentencepiece_model("unigram", 250)
PICKLE = pickle.dumps(Bomb(Path("mark")))
NAME = "model.encoder.layers.0.fc1.weight"
BYTES = {"merges__txt": merges()[1], "vocab__json": gpt2_vocabulary()}

ATTACKS: dict[str, tuple[Attack, str]] = {
    "code beside the tokeniser": (changed(TOKENS, trust_remote_code=True), "asks to run code"),
    "a generator of its own": (changed(CONFIG, custom_generate={"x": "y"}), "asks to run code"),
    "a class that nobody knows": (vocabulary("Evil", vocab__txt="a\n"), "Evil with vocab.txt is not known"),
    "a class with a path": (vocabulary("../../evil", vocab__txt="a\n"), "is not known"),
    "pieces without numbers": (vocabulary("Marian", source__spm=SPM, target__spm=SPM), "no vocab.json beside"),
    "numbers of another model": (
        vocabulary("Marian", source__spm=SPM, target__spm=SPM, vocab__json='{"</s>": 0, "<unk>": 1073741824}'), "does not number"),
    **{f"a tokenizer.json with {name}": (tokenizer_json(lambda found, name=name: found.update(PANICS[name])), "tokeniser")
       for name in PANICS},
    "a tokenizer.json nested deeply": (written(JSON, DEEP), "not a tokeniser"),
    "a tokenizer.json of bytes": (written(JSON, b"\xff" * 64), "cannot be read"),
    "a tokenizer.json that is a pickle": (written(JSON, PICKLE), "cannot be read|not a tokeniser"),
    "a tokenizer.json of a list": (written(JSON, b"[]"), "not a tokeniser"),
    "a tokenizer.json with a broken pattern": (tokenizer_json(lambda found: found.update(
        pre_tokenizer={"type": "Split", "pattern": {"Regex": "("}, "behavior": "Isolated", "invert": False})), "not a tokeniser"),
    "ids beyond the model": (tokenizer_json(lambda found: found["model"]["vocab"].update(odd=2**31)), "has the id 2,147,483,648"),
    "ids that no machine has": (tokenizer_json(lambda found: found["model"]["vocab"].update(odd=2**70)), "has the id 1,180"),
    "an id below zero": (tokenizer_json(lambda found: found["model"]["vocab"].update(odd=-1)), "not a tokeniser"),
    "settings of the tokeniser that are a list": (written(TOKENS, b"[]"), "no JSON object"),
    "settings of the tokeniser nested deeply": (written(TOKENS, DEEP), "nested too deeply|is not JSON"),
    "settings of the tokeniser with a key twice": (written(TOKENS, b'{"a": 1, "a": 2}'), "a key is there twice"),
    "settings of the tokeniser with NaN": (written(TOKENS, b'{"model_max_length": NaN}'), "NaN is no number"),
    "settings of the tokeniser beyond any size": (written(TOKENS, b" " * (33 << 20)), "at most 33,554,432"),
    "a map of special tokens that is text": (both(removed(TOKENS), instead(special_tokens_map__json='"x"')), "no JSON object"),
    "added tokens with an id of a billion": (instead(added_tokens__json={"<x>": 10**9}), "no id of an added token"),
    "added tokens at another's id": (instead(added_tokens__json={"<x>": 3}), "is to have the id 3"),
    "added tokens without end": (
        instead(added_tokens__json={f"<{i}>": i for i in range(40_000)}), "at most 32,768"),
    "added tokens that are no object": (changed(TOKENS, added_tokens_decoder=["<x>"]), "added_tokens_decoder is no object"),
    "an added token without content": (changed(TOKENS, added_tokens_decoder={"9": {"special": True}}), "no content"),
    "more tokens than rows": (changed(TOKENS, additional_special_tokens=[f"<{i}>" for i in range(500)]), "for a vocabulary of"),
    "a chat template that is a number": (changed(TOKENS, chat_template=7), "chat_template is neither"),
    "chat templates with one name": (
        changed(TOKENS, chat_template=[{"name": "a", "template": ""}] * 2), "chat_template is neither"),
    "a chat template of bytes": (instead(chat_template__jinja=b"\xff\xfe"), "is not UTF-8"),
    "a chat template that is a pipe": (pipe("chat_template.jinja"), "not a plain file"),
    "a chat template linked out": (link("chat_template.jinja", "x"), "link that leaves the folder"),
    "vocab.txt linked out": (both(vocabulary("Bert"), link("vocab.txt", bert_vocabulary())), "link that leaves the folder"),
    "merges.txt linked out": (both(vocabulary("GPT2", vocab__json={}), link("merges.txt", "a b\n")), "link that leaves the folder"),
    "a SentencePiece model linked out": (both(vocabulary("T5"), link("spiece.model", SPM)), "link that leaves the folder"),
    "a map of special tokens linked out": (link("special_tokens_map.json", {}), "link that leaves the folder"),
    "added tokens linked out": (link("added_tokens.json", {}), "link that leaves the folder"),
    "a SentencePiece model that is a pickle": (vocabulary("T5", spiece__model=PICKLE), "no SentencePiece model"),
    "a SentencePiece model cut short": (vocabulary("T5", spiece__model=SPM[:-9]), "goes beyond the end"),
    "a SentencePiece model that leads out of itself": (
        vocabulary("T5", spiece__model=UNKNOWN + piece(b"a") + CHARSMAP), "leads out of it"),
    "a SentencePiece model with a length of 2^60": (
        vocabulary("T5", spiece__model=b"\x0a" + b"\xff" * 8 + b"\x0f"), "goes beyond the end"),
    "a score that is no number": (
        vocabulary("T5", spiece__model=UNKNOWN + piece(b"a", score=float("nan"))), "without a finite score"),
    "a billion sentinels": (vocabulary("T5", settings={"extra_ids": 10**9}, spiece__model=SPM), "extra_ids is 1000000000"),
    "a vocab.json of text": (vocabulary("GPT2", merges__txt="", vocab__json={"a": "0"}), "no whole numbers"),
    "a vocab.json nested deeply": (vocabulary("GPT2", merges__txt="", vocab__json=DEEP), "nested too deeply|is not JSON"),
    "a merges.txt of one": (vocabulary("GPT2", **{**BYTES, "merges__txt": "a\n"}), "is no pair of pieces"),
    "a merge of what is not there": (vocabulary("GPT2", **{**BYTES, "merges__txt": "龘 龘\n"}), "makes no tokeniser"),
    "a vocab.txt of bytes": (vocabulary("Bert", vocab__txt=b"[UNK]\n\xff\n"), "byte 6 is not UTF-8"),
    "a tensor in two shards": (shards(shard_twice), "is in two files"),
    "a shard that is missing": (shards(lambda folder, _: (folder / SECOND).unlink()), "is named, and is not there"),
    "a shard linked out": (shards(shard_out), "link that leaves the folder"),
    "a shard that is a pickle": (shards(lambda folder, _: (folder / SECOND).write_bytes(PICKLE)), "is damaged"),
    "a shard that is a folder": (
        shards(lambda folder, _: ((folder / SECOND).unlink(), (folder / SECOND).mkdir())), "not a plain file"),
    "a shard that is a pipe": (
        shards(lambda folder, _: ((folder / SECOND).unlink(), os.mkfifo(folder / SECOND))), "not a plain file"),
    "a shard in another folder": (
        shards(lambda folder, places: index(folder, {**places, NAME: f"sub/{FIRST}"})), "is no file name"),
    "a shard with a zero byte": (
        shards(lambda folder, places: index(folder, {**places, NAME: "a\0.safetensors"})), "is no file name"),
    "a tensor without a shard": (shards(lambda folder, places: index(
        folder, {name: file for name, file in places.items() if name != NAME})), "is wrong about"),
    "a tensor in the wrong shard": (shards(lambda folder, places: index(
        folder, places | {NAME: FIRST if places[NAME] == SECOND else SECOND})), "is wrong about"),
    "shards in a list": (shards(lambda folder, places: index(folder, list(places))), "no weight_map of names"),
    "an index nested deeply": (shards(lambda folder, _: (folder / INDEX).write_bytes(DEEP)), "nested too deeply|is not JSON"),
    "an index linked out": (shards(lambda folder, _: linked(INDEX)(folder)), "link that leaves the folder"),
    "weights of truths": (header(lambda found: found[NAME].update(dtype="BOOL")), "is damaged|of kind BOOL"),
    "weights of a kind that is none": (header(lambda found: found[NAME].update(dtype="PICKLE")), "is damaged"),
    "weights in quarters": (header(lambda found: found[NAME].update(dtype="F8_E4M3")), "is damaged|of kind F8_E4M3"),
    "a header nested deeply": (raw_header(DEEP), "is damaged"),
    "a header with a key twice": (raw_header(b'{"a":{"dtype":"F32","shape":[0],"data_offsets":[0,0]},'
                                             b'"a":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}'), "damaged|missing|layers"),
    "a header of bytes": (raw_header(b"\xff" * 16), "is damaged"),
    "a header whose metadata is a list": (header(lambda found: found.update(__metadata__=["x"])), "is damaged"),
    "weights that overlap": (header(lambda found: found[NAME].update(data_offsets=[0, 1536])), "is damaged"),
    "a checkpoint named .ckpt": (instead(WEIGHTS, model__ckpt=PICKLE), "are a pickle"),
    "a checkpoint named .pth": (instead(WEIGHTS, model__pth=PICKLE), "are a pickle"),
    "a checkpoint named .pkl": (instead(WEIGHTS, model__pkl=PICKLE), "are a pickle"),
}  # fmt: skip


# --- The tests ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A good folder, imported once, so that whatever is loaded late is there before anybody listens."""
    place = tmp_path_factory.mktemp("whole")
    assert main(["import", str(saved(place / "model")), "--out", str(place / "imported")]) == 0
    return place / "model"


def assert_refused(source: Path | str, said: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Exit 2 and three lines; nothing run, opened elsewhere, connected to or written; soon, and in little memory."""
    capfd.readouterr()
    HEARD.clear()
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    tracemalloc.start()
    LISTENING.append(True)
    try:
        code = main(["import", str(source), "--out", str(tmp_path / "out")])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        LISTENING.clear()
        tracemalloc.stop()
    found = capfd.readouterr()
    assert code == 2, found.err
    assert 1 <= len(found.err.splitlines()) <= 3, found.err
    assert len(found.err) < 1500
    assert "\x1b" not in found.err
    assert any(part in found.err for part in said.split("|")), found.err
    assert found.out == ""
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.rglob("mark"))
    assert strange(tmp_path / "model") == []
    assert peak < 200_000_000
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000  # kilobytes
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("name", ATTACKS)
def test_a_hostile_folder_is_not_imported(
    name: str, whole: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    attack, said = ATTACKS[name]
    shutil.copytree(whole, tmp_path / "model")
    (tmp_path / "model" / "ciyuan.json").unlink()  # of another tool
    attack(tmp_path / "model")
    assert_refused(tmp_path / "model", said, tmp_path, capfd)


def test_there_are_more_than_forty_of_them() -> None:
    assert len(ATTACKS) > 40


@pytest.mark.parametrize("suffix", [".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"])
def test_a_pickle_is_not_imported_and_the_way_to_convert_it_is_said(
    suffix: str, whole: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path, {f"model{suffix}": pickle.dumps(Bomb(tmp_path / "mark"))})
    assert_refused(tmp_path / f"model{suffix}", "save_pretrained", tmp_path, capfd)


FILES = {
    "weights alone": ("model.safetensors", b"", "name the folder"),
    "settings alone": ("config.json", b"{}", "name the folder"),
    "a GGUF file cut short": ("model.gguf", b"GGUF", "model.gguf: "),
    "a GGUF file that is a pickle": ("model.gguf", PICKLE, "model.gguf: "),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_no_model_is_not_imported(
    name: str, whole: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file, content, said = FILES[name]
    write(tmp_path / "model", {file: content})
    assert_refused(tmp_path / "model" / file, said, tmp_path, capfd)


@pytest.mark.parametrize(
    "name", ["../nowhere", "a/b/c", "https://example.com/model", "a b", "org/na\x1b[2Jme", "org/name"]
)
def test_a_name_that_is_nowhere_is_not_asked_for(
    name: str, whole: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert_refused(name, "there is no such file or folder", tmp_path, capfd)


def test_a_template_that_reaches_for_python_is_kept_and_not_run(whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / "model")
    evil = "{{ ''.__class__.__mro__[1].__subclasses__() }}{% for i in range(10**12) %}{% endfor %}"
    changed(TOKENS, chat_template=evil)(tmp_path / "model")
    HEARD.clear()
    LISTENING.append(True)
    try:
        assert main(["import", str(tmp_path / "model"), "--out", str(tmp_path / "out")]) == 0
    finally:
        LISTENING.clear()
    assert json.loads((tmp_path / "out" / TOKENS).read_text())["chat_template"] == evil
    assert [found for found in strange(tmp_path) if found[0] != "open"] == []
