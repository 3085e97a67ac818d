from __future__ import annotations

import json
from pathlib import Path

import pytest

from ciyuan.errors import ModelFolderError, TokenizerError
from ciyuan.text import Tokenizer, chat
from tests.text.foreign import PANICS, bert_vocabulary, gpt2_vocabulary, merges, write

CHATS = "{% for m in messages %}{{ m['content'] }}{% endfor %}"


def gpt2(
    folder: Path, *, config: dict[str, object] | None = None, last: tuple[str, ...] = (), **settings: object
) -> Path:
    """A folder of GPT-2's tokeniser, with what its configuration says of it."""
    files: dict[str, object] = {
        "vocab.json": gpt2_vocabulary(last=("<|endoftext|>", *last)), "merges.txt": merges()[1],
        "config.json": config or {"model_type": "gpt2"},
        "tokenizer_config.json": {"tokenizer_class": "GPT2Tokenizer", **settings},
    }  # fmt: skip
    return write(folder, files)


def as_json(folder: Path) -> Path:
    """The same with a tokenizer.json and no other vocabulary; tokenizer_config.json and the like stay as they are."""
    content = Tokenizer.load(folder).files()["tokenizer.json"]
    for name in ("vocab.json", "merges.txt", "vocab.txt"):
        (folder / name).unlink(missing_ok=True)
    (folder / "tokenizer.json").write_text(content, encoding="utf-8")
    return folder


def saved(tokenizer: Tokenizer, folder: Path) -> dict[str, object]:
    tokenizer.save(folder)
    found: dict[str, object] = json.loads((folder / "tokenizer_config.json").read_text())
    return found


def test_pad_that_is_eos_is_no_pad_and_other_tools_are_told_as_before(tmp_path: Path) -> None:
    ours = Tokenizer.load(gpt2(tmp_path / "a", pad_token="<|endoftext|>"))
    assert ours.special.pad is None
    assert not ours.has("pad")
    assert ours.pad_id == ours.eos_id
    assert saved(ours, tmp_path / "b")["pad_token"] == "<|endoftext|>"
    assert Tokenizer.load(tmp_path / "b").special == ours.special


def test_pad_that_is_a_token_of_its_own_is_kept(tmp_path: Path) -> None:
    ours = Tokenizer.load(gpt2(tmp_path / "a", last=("<|pad|>",), pad_token="<|pad|>"))
    assert ours.special.pad == "<|pad|>"
    assert ours.pad_id != ours.eos_id
    assert ours.encode("<|pad|>") != [ours.pad_id]


def test_a_token_that_is_named_and_not_there_comes_at_the_end(tmp_path: Path) -> None:
    ours = Tokenizer.load(gpt2(tmp_path / "a", pad_token="[PAD]"))
    assert ours.pad_id == ours.vocab_size - 1 == len(gpt2_vocabulary())


def test_special_tokens_map_names_roles_where_the_configuration_is_an_old_one(tmp_path: Path) -> None:
    folder = gpt2(tmp_path / "a", last=("<x>", "<y>"), eos_token="<y>")
    write(folder, {"special_tokens_map.json": {"eos_token": {"content": "<x>", "lstrip": False}}})
    assert Tokenizer.load(folder).special.eos == "<x>"
    n = len(gpt2_vocabulary(last=("<|endoftext|>", "<x>", "<y>")))
    write(folder, {"tokenizer_config.json": {
        "tokenizer_class": "GPT2Tokenizer", "eos_token": "<y>",
        "added_tokens_decoder": {str(n - 1): {"content": "<y>", "special": True, "lstrip": False, "rstrip": False,
                                              "normalized": False, "single_word": False}},
    }})  # fmt: skip
    assert Tokenizer.load(folder).special.eos == "<y>"


def test_added_tokens_have_the_ids_that_their_file_gives_and_another_id_is_refused(tmp_path: Path) -> None:
    folder, n = gpt2(tmp_path / "a"), len(gpt2_vocabulary())
    write(folder, {"added_tokens.json": {"<second>": n + 1, "<first>": n}})
    ours = Tokenizer.load(folder)
    assert ours.encode("a<second>b<first>")[1::2] == [n + 1, n]
    write(folder, {"added_tokens.json": {"<first>": n + 7}})
    with pytest.raises(TokenizerError, match="is to have the id"):
        Tokenizer.load(folder)


def test_further_special_tokens_are_kept_and_only_code_writes_them(tmp_path: Path) -> None:
    ours = Tokenizer.load(gpt2(tmp_path / "a", last=("<call>",), additional_special_tokens=["<call>", "<new>"]))
    assert ours.special.extra == ("<call>", "<new>")
    assert ours.id_of_token("<new>") not in ours.encode("<call> <new>")
    assert saved(ours, tmp_path / "b")["additional_special_tokens"] == ["<call>", "<new>"]
    assert Tokenizer.load(tmp_path / "b").special == ours.special


def test_roles_that_no_file_of_the_tokeniser_names_are_found_by_the_ids_of_the_model(tmp_path: Path) -> None:
    folder = write(tmp_path, {"vocab.txt": bert_vocabulary(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "<end>"])})
    as_json(write(folder, {"tokenizer_config.json": {
        "tokenizer_class": "BertTokenizer", "additional_special_tokens": ["<end>"], "do_lower_case": False}}))  # fmt: skip
    write(folder, {"config.json": {"model_type": "bert", "eos_token_id": [5, 6]}})
    ours = Tokenizer.load(folder)
    assert ours.special.eos == "<end>"
    assert ours.special.pad == "[PAD]"
    write(folder, {"config.json": {"model_type": "bert", "eos_token_id": 9}})
    assert Tokenizer.load(folder).special.eos is None  # an ordinary word is nobody's EOS


def test_a_role_that_is_said_to_be_nobodys_is_nobodys(tmp_path: Path) -> None:
    folder = as_json(
        gpt2(tmp_path, bos_token=None, config={"model_type": "gpt2", "bos_token_id": len(gpt2_vocabulary()) - 1})
    )
    assert Tokenizer.load(folder).special.bos is None


def test_flags_of_the_configuration_go_before_tokenizer_json(tmp_path: Path) -> None:
    bert = as_json(write(tmp_path / "bert", {"vocab.txt": bert_vocabulary()}))
    assert Tokenizer.load(bert).encode("HELLO") == Tokenizer.load(bert).encode("hello")
    write(bert, {"tokenizer_config.json": {"tokenizer_class": "BertTokenizer", "do_lower_case": False}})
    assert Tokenizer.load(bert).encode("HELLO") != Tokenizer.load(bert).encode("hello")
    plain = as_json(gpt2(tmp_path / "gpt2"))
    assert Tokenizer.load(plain).encode("a") != Tokenizer.load(plain).encode(" a")
    prefixed = gpt2(tmp_path / "gpt2p")
    write(as_json(prefixed), {"tokenizer_config.json": {"tokenizer_class": "GPT2Tokenizer", "add_prefix_space": True}})
    assert Tokenizer.load(prefixed).encode("a") == Tokenizer.load(prefixed).encode(" a")


@pytest.mark.parametrize(
    ("said", "begins"), [({}, False), ({"add_bos_token": True}, True), ({"add_eos_token": True}, False)]
)
def test_whether_a_text_begins_with_bos_is_what_the_template_says(
    said: dict[str, object], begins: bool, tmp_path: Path
) -> None:
    assert Tokenizer.load(gpt2(tmp_path, last=("<b>",), bos_token="<b>", **said)).begins_with_bos is begins


@pytest.mark.parametrize("value", [CHATS, [{"name": "default", "template": CHATS}, {"name": "tools", "template": "x"}]])
def test_a_chat_template_is_kept_as_it_was(value: object, tmp_path: Path) -> None:
    ours = Tokenizer.load(
        gpt2(tmp_path / "a", last=chat.MARKERS, additional_special_tokens=list(chat.MARKERS), chat_template=value)
    )
    assert saved(ours, tmp_path / "b")["chat_template"] == value
    assert saved(Tokenizer.load(tmp_path / "b"), tmp_path / "c")["chat_template"] == value


def test_a_chat_template_in_a_file_of_its_own_goes_before_the_other(tmp_path: Path) -> None:
    folder = write(gpt2(tmp_path / "a", chat_template="old"), {"chat_template.jinja": CHATS})
    assert saved(Tokenizer.load(folder), tmp_path / "b")["chat_template"] == CHATS


@pytest.mark.parametrize("value", [3, ["x"], [{"name": "a"}], [{"name": "a", "template": "x"}] * 2, {"default": "x"}])
def test_a_chat_template_that_is_none_is_refused(value: object, tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match="chat_template is neither"):
        Tokenizer.load(gpt2(tmp_path, chat_template=value))


@pytest.mark.parametrize(
    "decoder",
    [[], {"x": {"content": "a"}}, {"1": "a"}, {"1": {"content": ""}}, {"1": {"content": "a", "lstrip": 1}}, {"-1": {}}],
)
def test_added_tokens_that_are_none_are_refused(decoder: object, tmp_path: Path) -> None:
    folder = gpt2(tmp_path, added_tokens_decoder=decoder or [1])
    with pytest.raises(TokenizerError, match=r"added_tokens_decoder is no object|no id|no content|true or false"):
        Tokenizer.load(folder)


def test_a_link_that_leaves_the_folder_is_not_followed(tmp_path: Path) -> None:
    folder = gpt2(tmp_path / "a")
    (folder / "merges.txt").rename(tmp_path / "elsewhere")
    (folder / "merges.txt").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ModelFolderError, match="link that leaves the folder"):
        Tokenizer.load(folder)


@pytest.mark.parametrize("name", PANICS)
def test_what_makes_the_library_panic_is_refused_without_its_pages(
    name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = as_json(gpt2(tmp_path))
    content = json.loads((folder / "tokenizer.json").read_text())
    write(folder, {"tokenizer.json": {**content, **PANICS[name]}})
    with pytest.raises(TokenizerError, match=r"damaged|not a tokeniser"):
        Tokenizer.load(folder)
    assert capfd.readouterr().err == ""
