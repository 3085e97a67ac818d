"""The peer: llama.cpp, through `llama-cpp-python`, which takes ten minutes to compile. Imports nothing of ciyuan.

    python benchmarks/peers/llama.py MODEL.gguf < REQUEST.json

REQUEST: {"texts": [text …], "new_tokens": n}. Prints one JSON object a line on stdout, one for each text: its ids, those that
greedy decoding adds, the two largest logits before each, and what they spell. Keys and values are kept in float32.
"""

from __future__ import annotations

import json
import sys

import llama_cpp
import numpy as np


def main() -> int:
    request = json.load(sys.stdin)
    model = llama_cpp.Llama(
        sys.argv[1], n_ctx=512, n_batch=512, n_threads=1, logits_all=True, type_k=llama_cpp.GGML_TYPE_F32,
        type_v=llama_cpp.GGML_TYPE_F32, verbose=False,
    )  # fmt: skip
    for text in request["texts"]:
        ids = model.tokenize(text.encode(), add_bos=True, special=False)
        model.reset()
        model.eval(ids)
        written: list[int] = []
        best: list[list[float]] = []
        while len(written) < request["new_tokens"]:
            logits = np.array(model.scores[model.n_tokens - 1])
            order = np.argsort(-logits)[:2]
            best.append([float(logits[each]) for each in order])
            written.append(int(order[0]))
            model.eval(written[-1:])
        spelt = model.detokenize(written).decode(errors="replace")
        print(json.dumps({"ids": ids, "written": written, "best": best, "text": spelt}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
