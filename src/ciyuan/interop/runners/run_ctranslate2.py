"""The probe as CTranslate2 answers it, from a converted folder, with the tokenizer.json beside it."""

import importlib.metadata
import json
import pathlib
import sys
from typing import Any

import ctranslate2
import numpy as np
import tokenizers


def main() -> None:
    request = json.loads(pathlib.Path(sys.argv[1]).read_text(encoding="utf-8"))
    answers = pathlib.Path(sys.argv[2])
    folder = request["model"]
    reader = tokenizers.Tokenizer.from_file(f"{folder}/tokenizer.json")
    options = {"device": "cpu", "compute_type": request["compute_type"], "inter_threads": 1, "intra_threads": 1}

    def pieces(ids: list[int]) -> list[Any]:
        return [reader.id_to_token(i) for i in ids]

    arrays: dict[str, Any] = {}
    greedy: list[list[int]] = []
    never = [[token] for token in pieces(request["forbidden"])]
    limits = {"beam_size": 1, "suppress_sequences": never or None, "return_logits_vocab": False}
    if request["family"] == "encoder":
        model = ctranslate2.Encoder(folder, **options)
        for i, row in enumerate(request["reads"]):
            types = [[0] * len(row)] if request["token_types"] else None
            found = model.forward_batch([row], token_type_ids=types)
            arrays[f"hidden.{i}"] = np.array(found.last_hidden_state)[0]
            if "pooled" in request["outputs"]:
                arrays[f"pooled.{i}"] = np.array(found.pooler_output)[0]
    elif request["family"] == "decoder":
        model = ctranslate2.Generator(folder, **options)
        for first in range(0, len(request["reads"]), 2):  # two texts of different lengths: padding is proven too
            rows = request["reads"][first : first + 2]
            logits = np.array(model.forward_batch(rows))
            arrays |= {f"logits.{first + i}": logits[i, : len(row)] for i, row in enumerate(rows)}
        for row in request["prompts"]:
            found = model.generate_batch(
                [pieces(row)], max_length=request["new_tokens"], include_prompt_in_result=False, **limits
            )
            greedy.append(found[0].sequences_ids[0])
    else:
        model = ctranslate2.Translator(folder, **options)
        ids, given = reader.get_vocab(), pieces(request["prefix"][1:])
        for first in range(0, len(request["reads"]), 2):
            sources = [pieces(row) for row in request["reads"][first : first + 2]]
            targets = [
                pieces(row[1:]) for row in request["targets"][first : first + 2]
            ]  # it begins and ends them itself
            for i, found in enumerate(model.score_batch(sources, targets, max_input_length=0)):
                arrays[f"target_log_probs.{first + i}"] = np.array(found.log_probs, dtype=np.float32)
        limits["return_logits_vocab"] = True
        for i, row in enumerate(request["prompts"]):
            found = model.translate_batch(
                [pieces(row)], target_prefix=[given] if given else None,
                max_decoding_length=request["new_tokens"] + len(given), max_input_length=0,
                min_decoding_length=0, **limits,
            )[0]  # fmt: skip
            greedy.append([ids[token] for token in found.hypotheses[0]][len(given) :])
            steps = [np.array(each, dtype=np.float32) for some in found.logits for each in some]
            arrays[f"written_logits.{i}"] = np.array(steps[len(given) :])
    found = {
        "ids": [reader.encode(text, add_special_tokens=False).ids for text in request["texts"]],
        "framed": [reader.encode(text).ids for text in request["texts"]],
        "greedy": greedy,
        "greedy_text": [reader.decode(row) for row in greedy],
        "problems": [],
        "versions": {name: importlib.metadata.version(name) for name in ("ctranslate2", "tokenizers")},
    }
    np.savez(answers / "arrays.npz", **arrays)
    (answers / "answers.json").write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main()
