"""The probe as llama.cpp answers it, from a GGUF file."""

import importlib.metadata
import json
import pathlib
import sys
from typing import Any

import llama_cpp
import numpy as np


def main() -> None:
    request = json.loads(pathlib.Path(sys.argv[1]).read_text(encoding="utf-8"))
    answers = pathlib.Path(sys.argv[2])
    longest = max(map(len, request["reads"]), default=1) + request["new_tokens"] + 1
    model = llama_cpp.Llama(
        str(pathlib.Path(request["model"]) / "model.gguf"), n_ctx=longest, n_batch=longest, n_threads=1, logits_all=True,
        type_k=llama_cpp.GGML_TYPE_F32, type_v=llama_cpp.GGML_TYPE_F32, verbose=False,
    )  # fmt: skip
    arrays: dict[str, Any] = {}
    greedy: list[list[int]] = []
    for i, row in enumerate(request["reads"]):
        model.reset()
        model.eval(row)
        arrays[f"logits.{i}"] = np.array(model.scores[: len(row)], dtype=np.float32)
    for row in request["prompts"]:
        model.reset()
        model.eval(row)
        written: list[int] = []
        while len(written) < request["new_tokens"]:
            last = np.array(model.scores[model.n_tokens - 1])
            last[request["forbidden"]] = -np.inf
            if (token := int(last.argmax())) == request["eos"]:
                break
            written.append(token)
            model.eval([token])
        greedy.append(written)
    found = {
        "ids": [model.tokenize(text.encode(), add_bos=False, special=True) for text in request["texts"]],
        "framed": [model.tokenize(text.encode(), add_bos=True, special=True) for text in request["texts"]]
        if request["framed"]
        else None,
        "greedy": greedy,
        "greedy_text": [model.detokenize(row).decode(errors="replace") for row in greedy],
        "problems": [],
        "versions": {"llama-cpp-python": importlib.metadata.version("llama-cpp-python")},
    }
    np.savez(answers / "arrays.npz", **arrays)
    (answers / "answers.json").write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main()
