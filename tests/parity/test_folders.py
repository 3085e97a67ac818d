"""Folders that we write, opened by transformers as a user would: no code, no missing or unexpected keys, the same answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from ciyuan.generation.decoding import beam, forbidden_tokens, scorer
from ciyuan.interop import save_model_folder
from ciyuan.model import Transformer
from ciyuan.text import Tokenizer
from tests.interop.folders import SEQ2SEQ, TEXT, config, model, tokenizer
from tests.parity.ids import our_logits, padded_batch
from tests.parity.reference import load_theirs, our_greedy, their_logits, transformers

pytestmark = pytest.mark.filterwarnings("ignore")  # those of transformers, which are not ours to mend

Opened = tuple[Transformer, Tokenizer, Any, Path]


@pytest.fixture(scope="module", params=SEQ2SEQ)
def opened(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Opened:
    """A model of ours, and what transformers makes of its folder."""
    folder = tmp_path_factory.mktemp("ours")
    tokens = tokenizer()
    ours = model(config(request.param, tokens))
    save_model_folder(folder, ours, tokens, {"task": "translate"}, "# A card\n")
    theirs, report = load_theirs(folder)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert not report["mismatched_keys"]
    return ours, tokens, theirs, folder


def test_logits_agree(opened: Opened) -> None:
    ours, tokens, theirs, _ = opened
    batch = padded_batch(tokens.pad_id, vocab_size=tokens.vocab_size)
    wanted = our_logits(ours, *batch)
    torch.testing.assert_close(their_logits(theirs, *batch), wanted, rtol=1e-5, atol=2e-5 * float(wanted.std()))


def test_ids_and_text_agree(opened: Opened) -> None:
    _, tokens, _, folder = opened
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    for text in [*TEXT, "", "  two  spaces ", "emoji 🙂 and 龘", "line\nbreak"]:
        ids = tokens.encode(text)
        assert theirs(text).input_ids == [*ids, tokens.eos_id]
        assert theirs.decode(ids) == tokens.decode(ids) == text
    assert (theirs.pad_token_id, theirs.eos_token_id) == (tokens.pad_id, tokens.eos_id)


def test_greedy_text_agrees_with_the_folders_own_settings(opened: Opened) -> None:
    ours, tokens, theirs, folder = opened
    reader = transformers.AutoTokenizer.from_pretrained(folder)
    batch = reader(TEXT, return_tensors="pt", padding=True)
    written = theirs.generate(**batch, num_beams=1, max_length=20)
    for text, output in zip(TEXT, written, strict=True):
        wanted = our_greedy(ours, [*tokens.encode(text), tokens.eos_id], 19)
        found = output.tolist()[1:]
        assert (found[: found.index(tokens.eos_id)] if tokens.eos_id in found else found) == wanted
        assert reader.decode(output, skip_special_tokens=True) == tokens.decode(wanted)


def test_beam_search_by_default_writes_what_ours_does(opened: Opened) -> None:
    ours, tokens, theirs, folder = opened
    reader = transformers.AutoTokenizer.from_pretrained(folder)
    assert theirs.generation_config.num_beams == 4
    for text in TEXT[:2]:
        source = [*tokens.encode(text), tokens.eos_id]
        step = scorer(ours, source, forbidden=forbidden_tokens(ours.config))
        best = beam(step, eos_id=tokens.eos_id, limit=12, beam=4)[0]
        written = theirs.generate(**reader(text, return_tensors="pt"), max_length=13)[0]
        assert reader.decode(written, skip_special_tokens=True) == tokens.decode(best.tokens)


def test_what_transformers_saves_again_is_what_we_wrote(opened: Opened, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    _, _, theirs, folder = opened
    theirs.save_pretrained(tmp_path)
    ours, again = load_file(folder / "model.safetensors"), load_file(tmp_path / "model.safetensors")
    assert sorted(ours) == sorted(again)
    assert all(torch.equal(tensor, again[name]) for name, tensor in ours.items())
    wanted = json.loads((folder / "config.json").read_text())
    found = json.loads((tmp_path / "config.json").read_text())
    # transformers 5 ties T5 whatever is asked, and then lets the weights decide; the scale is a key of its own.
    differing = {name for name, value in wanted.items() if found.get(name, value) != value}
    assert differing <= {"tie_word_embeddings"}


def test_ctranslate2_scores_the_folder_of_modern_seq2seq_as_we_do(tmp_path: Path) -> None:
    """Its T5 loader divides logits by √d_model whatever config.json says: the reason for how the head is folded."""
    import ctranslate2

    tokens = tokenizer()
    ours = model(config("modern-seq2seq", tokens))
    save_model_folder(tmp_path, ours, tokens, {}, "")
    ctranslate2.converters.TransformersConverter(str(tmp_path)).convert(str(tmp_path / "converted"))
    translator_of_theirs = ctranslate2.Translator(str(tmp_path / "converted"), inter_threads=1, intra_threads=1)
    source, target = [*tokens.encode(TEXT[0]), tokens.eos_id], tokens.encode(TEXT[1])
    pieces = [[tokens.token(i) for i in ids] for ids in (source, target)]
    found = translator_of_theirs.score_batch([pieces[0]], [pieces[1]])[0].log_probs
    step = scorer(ours, source)
    wanted = [float(step(target[:i])[token]) for i, token in enumerate([*target, tokens.eos_id])]
    torch.testing.assert_close(torch.tensor(found), torch.tensor(wanted), rtol=1e-5, atol=1e-5)
