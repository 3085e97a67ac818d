"""Folders that want to run code, open other files, or eat the memory: each is refused, in three lines, and nothing happens."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import socket
import struct
import sys
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ciyuan.errors import ModelFolderError
from ciyuan.interop import load_model_folder, save_model_folder, with_head
from tests.interop.folders import config, model, saved, tokenizer_for

Attack = Callable[[Path], None]
OPENED: set[str] = set()
sys.addaudithook(lambda event, args: OPENED.add(str(args[0])) if event == "open" else None)


class Bomb:
    """Unpickled, it leaves a mark."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


def changed(name: str, **changes: object) -> Attack:
    def attack(folder: Path) -> None:
        found = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps({**found, **changes}))

    return attack


def without(name: str, *keys: str) -> Attack:
    def attack(folder: Path) -> None:
        found = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps({key: value for key, value in found.items() if key not in keys}))

    return attack


def written(name: str, content: bytes) -> Attack:
    return lambda folder: (folder / name).write_bytes(content) and None


def removed(name: str) -> Attack:
    return lambda folder: (folder / name).unlink()


def pickled(name: str) -> Attack:
    def attack(folder: Path) -> None:
        (folder / "model.safetensors").unlink()
        (folder / name).write_bytes(pickle.dumps(Bomb(folder.parent / "mark")))

    return attack


def indexed(place: str) -> Attack:
    def attack(folder: Path) -> None:
        (folder / "model.safetensors").rename(folder.parent / "secret.safetensors")
        index = {"weight_map": {"model.shared.weight": place.format(outside=folder.parent)}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))

    return attack


def linked(name: str) -> Attack:
    def attack(folder: Path) -> None:
        (folder / name).rename(folder.parent / f"secret-{name}")
        (folder / name).symlink_to(folder.parent / f"secret-{name}")

    return attack


def header(change: Callable[[dict[str, Any]], object], *, claimed: int | None = None) -> Attack:
    """model.safetensors with another header before the same bytes."""

    def attack(folder: Path) -> None:
        content = (folder / "model.safetensors").read_bytes()
        (size,) = struct.unpack("<Q", content[:8])
        found = json.loads(content[8 : 8 + size])
        change(found)
        text = json.dumps(found).encode()
        length = len(text) if claimed is None else claimed
        (folder / "model.safetensors").write_bytes(struct.pack("<Q", length) + text + content[8 + size :])

    return attack


def pipe(folder: Path) -> None:
    (folder / "config.json").unlink()
    os.mkfifo(folder / "config.json")


def folder_for_file(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").mkdir()


def unmapped(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": 1}}')


NAME = "model.encoder.layers.0.fc1.weight"
HUGE = 10**15
CONFIG, TOKENS = "config.json", "tokenizer_config.json"

ATTACKS: dict[str, tuple[Attack, str]] = {
    "a pickle named .bin": (pickled("pytorch_model.bin"), "are a pickle"),
    "a pickle named .pt": (pickled("model.pt"), "are a pickle"),
    "a pickle named .safetensors": (pickled("model.safetensors"), "is damaged"),
    "auto_map": (changed(CONFIG, auto_map={"AutoModel": "evil.Model"}), "asks to run code"),
    "auto_map of an unknown kind": (changed(CONFIG, model_type="evil", auto_map={"AutoConfig": "evil.C"}), "asks to run code"),
    "auto_map of the tokeniser": (changed(TOKENS, auto_map={"AutoTokenizer": ["evil.T", None]}), "asks to run code"),
    "custom pipelines": (changed(CONFIG, custom_pipelines={"x": {"impl": "evil.P"}}), "asks to run code"),
    "an unknown kind": (changed(CONFIG, model_type="evil"), "model_type evil is not known"),
    "no kind": (without(CONFIG, "model_type"), "model_type None is not known"),
    "another class": (changed(CONFIG, architectures=["MarianForCausalLM"]), "class .* is not known"),
    "an unknown setting": (changed(CONFIG, rope_scaling={"factor": 8}), "rope_scaling"),
    "a quantised model": (changed(CONFIG, quantization_config={"bits": 4}), "quantization_config is"),
    "an activation that we lack": (changed(CONFIG, activation_function="laplace"), "activation_function is laplace"),
    "a pre-norm Marian": (changed(CONFIG, normalize_before=True), "normalize_before is True"),
    "weight_map upwards": (indexed("../secret.safetensors"), "is no file name"),
    "weight_map absolute": (indexed("{outside}/secret.safetensors"), "is no file name"),
    "weight_map backwards": (indexed("..\\secret.safetensors"), "is no file name"),
    "weight_map to a pickle": (indexed("pytorch_model.bin"), "is named, and is not there"),
    "weight_map of numbers": (unmapped, "weight_map of names"),
    "weights linked out": (linked("model.safetensors"), "link that leaves the folder"),
    "config linked out": (linked(CONFIG), "link that leaves the folder"),
    "tokeniser linked out": (linked("tokenizer.json"), "link that leaves the folder"),
    "ciyuan.json linked out": (linked("ciyuan.json"), "link that leaves the folder"),
    "a pipe for config.json": (pipe, "not a plain file"),
    "a folder for weights": (folder_for_file, "not a plain file"),
    "header beyond the file": (header(lambda found: None, claimed=2**40), "is damaged"),
    "header of 2^64 - 1": (header(lambda found: None, claimed=2**64 - 1), "is damaged"),
    "offsets beyond the file": (header(lambda found: found[NAME].update(data_offsets=[0, 2**50])), "is damaged"),
    "offsets backwards": (header(lambda found: found[NAME].update(data_offsets=[64, 0])), "is damaged"),
    "a shape that overflows": (header(lambda found: found[NAME].update(shape=[2**40, 2**40])), "is damaged"),
    "a shape below zero": (header(lambda found: found[NAME].update(shape=[-1, 16])), "is damaged"),
    "a renamed tensor": (header(lambda found: found.update({"x" * 5000: found.pop(NAME)})), "tensors are missing"),
    "a tensor of integers": (header(lambda found: found[NAME].update(dtype="I32")), "of kind I32"),
    "an empty file": (written("model.safetensors", b""), "is damaged"),
    "a file cut short": (lambda folder: (folder / "model.safetensors").write_bytes(
        (folder / "model.safetensors").read_bytes()[:-1]) and None, "is damaged"),
    "a huge width": (changed(CONFIG, d_model=HUGE), "d_model is"),
    "a large width": (changed(CONFIG, d_model=2**24), "(?s)is of shape|too many"),
    "a huge vocabulary": (changed(CONFIG, vocab_size=2**24, decoder_vocab_size=2**24), "is of shape"),
    "many layers": (changed(CONFIG, encoder_layers=2**23), "layers"),
    "many heads": (changed(CONFIG, encoder_attention_heads=2**24), "not a multiple"),
    "many positions": (changed(CONFIG, max_position_embeddings=2**24), "too many"),
    "a width that is text": (changed(CONFIG, d_model="16"), "d_model is 16"),
    "a width that is true": (changed(CONFIG, d_model=True), "d_model is True"),
    "a width below zero": (changed(CONFIG, d_model=-16), "d_model is -16"),
    "dropout of one": (changed(CONFIG, dropout=1.0), "dropout is"),
    "PAD beyond the vocabulary": (changed(CONFIG, pad_token_id=9999), "(?s)beyond the vocabulary"),
    "several EOS": (changed(CONFIG, eos_token_id=[2, 3]), "eos_token_id is"),
    "no start token": (without(CONFIG, "decoder_start_token_id"), "decoder_start_token_id is missing"),
    "two tables, untied": (changed(CONFIG, tie_word_embeddings=False), "tie_word_embeddings is False"),
    "not a number": (written(CONFIG, b'{"model_type": "marian", "d_model": NaN}'), "is not JSON"),
    "a key twice": (written(CONFIG, b'{"model_type": "marian", "model_type": "t5"}'), "is not JSON"),
    "deep nesting": (written(CONFIG, b'{"a":' + b"[" * 200_000), "(?s)nested too deeply|is not JSON"),
    "a number of a million digits": (written(CONFIG, b'{"a": ' + b"9" * 1_000_000 + b"}"), "is not JSON"),
    "not UTF-8": (written(CONFIG, b'{"a": "\xff"}'), "is not JSON"),
    "a list": (written(CONFIG, b"[]"), "no JSON object"),
    "escapes for the terminal": (changed(CONFIG, **{"\x1b[2J": 1}), r"\\x1b\[2J"),
    "a broken tokeniser": (written("tokenizer.json", b'{"version": "1.0", "model": {"type": "BPE"}}'), "tokeniser cannot be used"),
    "no tokeniser": (removed("tokenizer.json"), "no tokenizer.json"),
    "no config": (removed(CONFIG), "no config.json"),
    "no weights": (removed("model.safetensors"), "no model.safetensors"),
    "an index that lies": (lambda folder: ((folder / "model.safetensors").rename(folder / "a.safetensors"),
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"x": "a.safetensors"}})),
        None)[-1], "is wrong about"),
}  # fmt: skip


HUGE_LABELS = {str(i): "same" for i in range(20_000)}
ATTACKS_OF_ONE_STACK: dict[str, tuple[str, Attack, str]] = {
    "a classifier of many": ("bert-2018", changed(CONFIG, id2label={str(i): str(i) for i in range(20_000)}), "implies"),
    "labels all alike": ("bert-2018", changed(CONFIG, id2label=HUGE_LABELS), "id2label has same 20000 times"),
    "labels for the terminal": ("bert-2018", changed(CONFIG, id2label={"0": "\x1b[2J", "1": "\x1b[2J"}), "2 times"),
    "a number of labels": ("bert-2018", without(CONFIG, "id2label"), "implies"),
    "more labels than torch can count": ("bert-2018", lambda folder: (
        without(CONFIG, "id2label")(folder), changed(CONFIG, num_labels=HUGE)(folder), None)[-1], "num_labels is"),
    "many layers of BERT": ("bert-2018", changed(CONFIG, num_hidden_layers=2**23), "layers"),
    "many positions of BERT": ("bert-2018", changed(CONFIG, max_position_embeddings=2**24), "implies"),
    "code in a BERT": ("bert-2018", changed(CONFIG, auto_map={"AutoModel": "evil.Model"}), "asks to run code"),
    "heads wider than torch can count": ("modern-decoder", changed(
        CONFIG, head_dim=2**24, num_attention_heads=2**24, num_key_value_heads=2**24, hidden_size=2**24), "sizes make no model"),
    "wide heads": ("modern-decoder", changed(CONFIG, head_dim=2**24), "implies"),
    "an odd head": ("modern-decoder", changed(CONFIG, head_dim=7), "even head size"),
    "a rotary base below zero": ("modern-decoder", changed(CONFIG, rope_parameters={"rope_theta": -1.0}), "rope_theta is -1.0"),
    "rotary settings that are text": ("modern-decoder", changed(CONFIG, rope_parameters="default"), "rope_parameters is"),
    "rotary settings with code": (
        "modern-decoder", changed(CONFIG, rope_parameters={"auto_map": {"a": "b"}}), "asks to run code"),
    "layers of another type": ("modern-encoder", changed(CONFIG, layer_types=[["full_attention"]]), "layer_types is"),
    "a translator that says it is GPT-2": ("gpt2-2019", changed(CONFIG, is_encoder_decoder=True), "is_encoder_decoder is True"),
    "GPT-2 without a class": ("gpt2-2019", changed(CONFIG, architectures=[["GPT2LMHeadModel"]]), "class .* is not known"),
}  # fmt: skip


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("whole") / "model")


@pytest.mark.parametrize("name", ATTACKS)
def test_a_hostile_folder_is_refused(name: str, whole: Path, tmp_path: Path) -> None:
    attack, said = ATTACKS[name]
    folder = tmp_path / "model"
    shutil.copytree(whole, folder)
    attack(folder)
    assert_refused(folder, said)


@pytest.mark.parametrize("name", ATTACKS_OF_ONE_STACK)
def test_a_hostile_folder_of_one_stack_is_refused(name: str, tmp_path: Path) -> None:
    preset, attack, said = ATTACKS_OF_ONE_STACK[name]
    folder, tokens = tmp_path / "model", tokenizer_for(preset)
    made = config(preset, tokens)
    if preset == "bert-2018":
        made = with_head(made, "classification", n_labels=3)
    save_model_folder(folder, model(made), tokens, {}, "")
    load_model_folder(folder)
    attack(folder)
    assert_refused(folder, said)


def assert_refused(folder: Path, said: str) -> None:
    """In three lines, soon, in little memory, and with nothing opened or run that lies elsewhere."""
    OPENED.clear()
    tracemalloc.start()
    began = time.monotonic()
    try:
        with pytest.raises(ModelFolderError, match=said) as caught:
            load_model_folder(folder)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    message = str(caught.value)
    assert len(message.splitlines()) <= 3
    assert len(message) < 1000
    assert "\x1b" not in message
    assert not (folder.parent / "mark").exists()
    assert not any("secret" in path for path in OPENED)
    assert peak < 100_000_000
    assert time.monotonic() - began < 5


def test_the_folder_that_they_were_made_from_is_fine(whole: Path) -> None:
    load_model_folder(whole)


@pytest.mark.parametrize("name", ["nowhere", "Helsinki-NLP/opus-mt-en-zh", "a\0b", "x" * 5000])
def test_a_folder_that_is_not_there_is_not_fetched(name: str) -> None:
    with pytest.raises(ModelFolderError, match="no such model folder") as caught:
        load_model_folder(name)
    assert "nothing is downloaded" in str(caught.value)


def test_a_link_to_the_folder_itself_and_links_within_are_fine(whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "real"
    shutil.copytree(whole, folder)
    (folder / "model.safetensors").rename(folder / "blob")
    (folder / "model.safetensors").symlink_to("blob")
    (tmp_path / "link").symlink_to(folder)
    load_model_folder(tmp_path / "link")


def test_tables_that_follow_from_the_model_are_compared_with_it(whole: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    from ciyuan.model.positions import SinusoidalPositions

    folder = tmp_path / "model"
    shutil.copytree(whole, folder)
    positions = load_model_folder(whole).model.main.positions
    assert isinstance(positions, SinusoidalPositions)
    tensors = load_file(folder / "model.safetensors")
    tensors["model.encoder.embed_positions.weight"] = positions.table.clone()
    tensors["lm_head.weight"] = tensors["model.shared.weight"].clone()
    save_file(tensors, folder / "model.safetensors")
    load_model_folder(folder)
    for name in ("model.encoder.embed_positions.weight", "lm_head.weight"):
        wrong = {**tensors, name: tensors[name].clone()}
        wrong[name][1, 2] += 0.01
        save_file(wrong, folder / "model.safetensors")
        with pytest.raises(ModelFolderError, match=f"{name} is not what follows"):
            load_model_folder(folder)
