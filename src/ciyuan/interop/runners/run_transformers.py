"""The probe as `transformers` answers it, from a Hugging Face folder; weights of 16 bits widened, arithmetic in float32."""

import json
import pathlib
import sys
from typing import Any

import numpy as np
import torch
import transformers


def outputs(found: Any, wanted: list[str]) -> dict[str, Any]:
    """What a model of theirs says, by our names: (B, …) each."""
    known = {}
    for ours, theirs in {
        "logits": ("logits", "prediction_logits"), "next_sentence": ("seq_relationship_logits",),
        "hidden": ("last_hidden_state",), "pooled": ("pooler_output",),
    }.items():  # fmt: skip
        for name in theirs:
            if found.get(name) is not None:
                known[ours] = found[name]
    if found.get("start_logits") is not None:
        known["logits"] = torch.stack([found["start_logits"], found["end_logits"]], dim=-1)
    return {name: known[name].float().numpy() for name in wanted}


def main() -> None:
    request = json.loads(pathlib.Path(sys.argv[1]).read_text(encoding="utf-8"))
    answers = pathlib.Path(sys.argv[2])
    transformers.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    folder = request["model"]
    reader = transformers.AutoTokenizer.from_pretrained(folder)
    config = transformers.AutoConfig.from_pretrained(folder)
    model, report = getattr(transformers, config.architectures[0]).from_pretrained(
        folder, dtype=torch.float32, output_loading_info=True
    )
    model.eval()
    pad = request["pad"]
    arrays = {}
    with torch.inference_mode():
        for first in range(0, len(request["reads"]), 2):  # two texts of different lengths: padding is proven too
            rows = request["reads"][first : first + 2]
            width = max(map(len, rows))
            asked = {
                "input_ids": torch.tensor([row + [pad] * (width - len(row)) for row in rows]),
                "attention_mask": torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows]),
            }
            if request["token_types"]:
                asked["token_type_ids"] = torch.zeros_like(asked["input_ids"])
            lengths = list(map(len, rows))
            if request["targets"]:
                targets = request["targets"][first : first + 2]
                lengths = list(map(len, targets))
                asked["decoder_input_ids"] = torch.tensor([row + [pad] * (max(lengths) - len(row)) for row in targets])
            for name, values in outputs(model(**asked), request["outputs"]).items():
                for i, length in enumerate(lengths):
                    per_position = values.ndim == 3 or (values.ndim == 2 and name == "hidden")
                    arrays[f"{name}.{first + i}"] = values[i, :length] if per_position else values[i]
        greedy = []
        for row in request["prompts"]:
            ids = torch.tensor([row])
            written = model.generate(
                ids, attention_mask=torch.ones_like(ids), num_beams=1, do_sample=False, max_length=None,
                max_new_tokens=request["new_tokens"], eos_token_id=request["eos"],
            )[0].tolist()  # fmt: skip
            written = written[len(request["prefix"] if request["targets"] else row) :]
            greedy.append(written[: written.index(request["eos"])] if request["eos"] in written else written)
    found = {
        "ids": [reader(text, add_special_tokens=False).input_ids for text in request["texts"]],
        "framed": [reader(text).input_ids for text in request["texts"]],
        "greedy": greedy,
        "greedy_text": [reader.decode(row, skip_special_tokens=True) for row in greedy],
        "problems": [f"{what}: {name}" for what in ("missing_keys", "unexpected_keys", "mismatched_keys")
                     for name in sorted(map(str, report[what]))],
        "versions": {"transformers": transformers.__version__, "torch": torch.__version__},
    }  # fmt: skip
    np.savez(answers / "arrays.npz", **arrays)
    (answers / "answers.json").write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main()
