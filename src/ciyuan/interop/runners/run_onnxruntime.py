"""The probe as ONNX Runtime answers it, from the graphs of a folder, with the tokenizer.json beside them."""

import importlib.metadata
import json
import pathlib
import sys
from typing import Any

import numpy as np
import onnxruntime
import tokenizers

NAMES = {
    "logits": "logits",
    "next_sentence": "next_sentence_logits",
    "hidden": "last_hidden_state",
    "pooled": "pooler_output",
}


def padded(rows: list[list[int]], filler: int) -> tuple[Any, Any]:
    """(B, T) ids and mask."""
    width = max(map(len, rows))
    ids = np.array([row + [filler] * (width - len(row)) for row in rows], dtype=np.int64)
    return ids, np.array([[1] * len(row) + [0] * (width - len(row)) for row in rows], dtype=np.int64)


def main() -> None:
    request = json.loads(pathlib.Path(sys.argv[1]).read_text(encoding="utf-8"))
    answers = pathlib.Path(sys.argv[2])
    folder = pathlib.Path(request["model"])
    reader = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))

    def opened(name: str) -> Any:
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = 1
        return onnxruntime.InferenceSession(folder / name, settings, providers=["CPUExecutionProvider"])

    both = request["family"] == "encoder-decoder"
    if both:
        encoder, decoder = opened("encoder_model.onnx"), opened("decoder_model.onnx")
    else:
        model = opened("model.onnx")

    def ask(rows: list[list[int]], targets: list[list[int]]) -> dict[str, Any]:
        """What the graphs say of rows, by our names."""
        ids, mask = padded(rows, request["pad"])
        if both:
            memory = encoder.run(None, {"input_ids": ids, "attention_mask": mask})[0]
            written, _ = padded(targets, request["pad"])
            asked = {"input_ids": written, "encoder_hidden_states": memory, "encoder_attention_mask": mask}
            return {"logits": decoder.run(None, asked)[0]}
        asked = {"input_ids": ids, "attention_mask": mask}
        if request["token_types"]:
            asked["token_type_ids"] = np.zeros_like(ids)
        names = [output.name for output in model.get_outputs()]
        found = dict(zip(names, model.run(None, asked), strict=True))
        if "start_logits" in found:
            return {"logits": np.stack([found["start_logits"], found["end_logits"]], axis=-1)}
        return {name: found[NAMES[name]] for name in request["outputs"]}

    arrays: dict[str, Any] = {}
    greedy: list[list[int]] = []
    for first in range(0, len(request["reads"]), 2):  # two texts of different lengths: padding is proven too
        rows, targets = request["reads"][first : first + 2], request["targets"][first : first + 2]
        lengths = list(map(len, targets if both else rows))
        for name, values in ask(rows, targets).items():
            arrays |= {
                f"{name}.{first + i}": values[i, :n] if values.ndim == 3 else values[i] for i, n in enumerate(lengths)
            }
    for row in request["prompts"]:
        written: list[int] = []
        while len(written) < request["new_tokens"]:
            scores = ask([row], [[*request["prefix"], *written]]) if both else ask([row + written], [])
            last = scores["logits"][0, -1]
            last[request["forbidden"]] = -np.inf
            if (token := int(last.argmax())) == request["eos"]:
                break
            written.append(token)
        greedy.append(written)
    found = {
        "ids": [reader.encode(text, add_special_tokens=False).ids for text in request["texts"]],
        "framed": [reader.encode(text).ids for text in request["texts"]],
        "greedy": greedy,
        "greedy_text": [reader.decode(row) for row in greedy],
        "problems": [],
        "versions": {name: importlib.metadata.version(name) for name in ("onnxruntime", "tokenizers")},
    }
    np.savez(answers / "arrays.npz", **arrays)
    (answers / "answers.json").write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main()
