"""ciyuan as a model of EleutherAI's lm-evaluation-harness, under the name `ciyuan`.

    python -m ciyuan.evaluation.lm_eval run --model ciyuan --model_args pretrained=runs/mine --tasks lambada_openai

Needs the extra `lm-eval`. Importing this module registers the model, for programs that call `lm_eval.simple_evaluate`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.api.registry import register_model

from ciyuan.evaluation.harness import Harness
from ciyuan.interop import load_adapter, load_model_folder


@register_model("ciyuan")
class CiyuanLM(LM):  # type: ignore[misc]
    """A model folder. The harness's batch sizes are not read: batches are counted in tokens."""

    def __init__(
        self,
        pretrained: str,
        *,
        adapter: str | None = None,
        batch_tokens: int = 4096,
        threads: int | None = None,
        device: str | None = None,
        batch_size: object = None,
        max_batch_size: object = None,
    ) -> None:
        super().__init__()
        if threads is not None:
            torch.set_num_threads(int(threads))
        loaded = load_model_folder(Path(pretrained))
        if adapter is not None:
            loaded = load_adapter(Path(adapter), loaded)
        self._name = loaded.tokenizer.fingerprint
        there = device if torch.cuda.is_available() and device else "cpu"  # the harness names a GPU where there is none
        model = loaded.model.to(there).eval()
        self.harness = Harness(model, loaded.tokenizer, batch_tokens=int(batch_tokens))

    @property
    def tokenizer_name(self) -> str:
        return self._name

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        return self.harness.loglikelihood(
            [(context, continuation) for context, continuation in (r.args for r in requests)]
        )

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        return self.harness.loglikelihood_rolling([request.args[0] for request in requests])

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        return self.harness.generate_until(
            [(context, dict(options)) for context, options in (r.args for r in requests)]
        )


def main() -> Any:
    from lm_eval.__main__ import cli_evaluate

    return cli_evaluate()


if __name__ == "__main__":
    main()
