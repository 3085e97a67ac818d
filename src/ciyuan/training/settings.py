"""The `training` section of a recipe."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from ciyuan.config import Settings
from ciyuan.model.lora import LoraSettings

OptimizerName = Literal["adamw", "muon"]
ScheduleName = Literal["constant", "linear", "constant-linear", "cosine", "inverse-sqrt"]

MOST_THREADS = 1024
"""Beyond any machine; a system that is asked for more may refuse in the middle of a run."""


class TrainingSettings(Settings):
    """How long to train, with which optimiser, and what to keep on the way."""

    steps: int | None = Field(default=None, ge=1, description="Updates to make")
    minutes: float | None = Field(
        default=None, gt=0, description="Time to train, evaluation and saving included; 20 if no limit is set. "
        "Of several limits (steps, minutes, tokens) the first to be reached ends the run",
    )  # fmt: skip
    tokens: int | None = Field(default=None, ge=1, description="Tokens to train on, both sides counted, no padding")
    batch_tokens: int | Literal["auto"] = Field(
        default=600,
        description="Budget of a batch: rows times its widest side, padding included; auto: by width and length of the run",
    )
    accumulate: int = Field(default=4, ge=1, description="Batches whose gradients are added up before one update")
    batch_ramp: float = Field(
        default=0.0, ge=0, le=1, description="Share of the run over which updates grow from one batch to all of accumulate; 0: none"
    )
    length_ramp: float = Field(
        default=0.0, ge=0, le=1, description="Of running text: share of the run in whose first half rows are cut into quarters, "
        "and in the second into halves, so that the same tokens are learnt from with less before them; 0: none",
    )  # fmt: skip

    optimizer: OptimizerName | Literal["auto"] = Field(
        default="auto", description="muon: Muon on the matrices of the blocks and AdamW on the rest; adamw: on all; auto: muon, "
        "but adamw for a model that others have trained",
    )  # fmt: skip
    lr: float | Literal["auto"] = Field(
        default="auto", description="Rate of the matrices of the blocks; auto, here and below: what suits the kind of model "
        "and what it starts from, as the run says when it begins",
    )  # fmt: skip
    embedding_lr: float | Literal["auto"] = Field(
        default="auto", description="Rate of the tables; auto: in proportion to lr, where that is given"
    )
    head_lr: float | Literal["auto"] = Field(default="auto", description="Rate of an untied head")
    other_lr: float | Literal["auto"] = Field(
        default="auto", description="Rate of norms, biases and relative positions"
    )
    betas: tuple[float, float] | Literal["auto"] = Field(
        default="auto", description="AdamW's. auto: 0.8, 0.95 beside muon, else 0.9, 0.98"
    )
    eps: float = Field(default=1e-9, gt=0, description="AdamW's")
    weight_decay: float = Field(default=0.0, ge=0, description="Decoupled, on the matrices of blocks and head")
    momentum: float = Field(default=0.95, ge=0, lt=1, description="Muon's, of Nesterov's kind")
    orthogonalize: Literal["polar-express", "newton-schulz"] = Field(
        default="polar-express", description="Which polynomials bring Muon's update close to an orthogonal matrix"
    )
    iterations: int = Field(default=3, ge=1, le=8, description="How many of them, one after the other")

    schedule: ScheduleName = Field(default="constant-linear", description="How the rates fall in the course of the run")
    warmup: int | float | Literal["auto"] = Field(
        default="auto", description="Rise from zero over this share of the run; from 1 on: over so many steps"
    )
    decay: float = Field(default=0.5, gt=0, le=1, description="Share of the run over which constant-linear falls")
    final_lr: float = Field(default=0.0, ge=0, le=1, description="Share of the rates that is left at the end")
    clip: float | None = Field(default=1.0, gt=0, description="Largest norm of the gradient; null: unlimited")
    label_smoothing: float = Field(default=0.1, ge=0, lt=1, description="Probability spread over the whole vocabulary")

    guidance: float = Field(
        default=1.5, ge=0, description="Of a translation: weight with which counted word links teach cross-attention "
        "where to look, falling to 0 in the course of the run; 0: none",
    )  # fmt: skip
    warm_start: bool = Field(
        default=True, description="Of a translation: begin with embeddings and head from counts instead of random ones"
    )

    layer_decay: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="Of a fine-tuning: each block's rate as a share of that of the block above it",
    )
    freeze: Literal["none", "embeddings", "body"] | int = Field(
        default="none", description="Of a fine-tuning, what stays as it was: embeddings; body: all but the head; or N: "
        "embeddings and the N lowest blocks",
    )  # fmt: skip
    lora: LoraSettings | None = Field(
        default=None, description="Of a fine-tuning: learn low-rank adapters and leave the model itself as it was; {}: as below"
    )

    average: Literal["none", "ema", "tail"] = Field(
        default="none",
        description="Evaluate and keep averaged weights: ema, fading, or tail, the mean of the last steps",
    )
    average_decay: float = Field(default=0.999, gt=0, lt=1, description="What ema keeps at each step")
    average_tail: float = Field(default=0.1, gt=0, le=1, description="Share of the run that tail is the mean of")

    evaluate_every: int | Literal["auto"] = Field(
        default="auto",
        description="Steps between evaluations; auto: up to ten in a run, for 5 % of its time under minutes",
    )
    checkpoint_every: int | Literal["auto"] = Field(
        default="auto", description="Steps between checkpoints; auto: once a minute, seldom enough to cost under 5 %"
    )
    keep_checkpoints: int = Field(default=2, ge=1, description="How many checkpoints are kept")
    save_in_background: bool = Field(
        default=False, description="Train on while a checkpoint is written, from a copy that takes as much memory as it does disk"
    )
    log_every: int = Field(default=10, ge=1, description="Steps between lines of metrics.jsonl")
    metric: str = Field(
        default="auto", description="Score by which the best model is kept; auto: the first that evaluation gives"
    )
    early_stop: int | None = Field(default=None, ge=1, description="Evaluations without a better score before stopping")
    on_nonfinite: Literal["skip", "stop"] = Field(
        default="skip", description="At a loss or gradient that is not finite: skip the update, or stop the run before it"
    )
    max_skipped: int = Field(
        default=5, ge=1, description="Updates in a row that may be skipped for a gradient that is not finite"
    )

    seed: int = Field(default=0, ge=0, lt=2**63, description="Decides order, dropout and initialisation")
    precision: Literal["fp32", "bf16", "auto"] = Field(
        default="fp32",
        description="bf16: mixed, weights stay fp32; auto: what is quicker where the sizes are decided by trial, else fp32",
    )
    device: Literal["auto", "cpu", "cuda"] = Field(default="auto", description="auto: the GPU if there is one")
    threads: int | Literal["auto"] = Field(default="auto", description="CPU threads; auto: one per core")

    @field_validator("batch_tokens")
    @classmethod
    def _some_tokens(cls, value: int | str) -> int | str:
        if isinstance(value, int) and value < 1:
            raise ValueError("batch_tokens must be at least 1, or auto")
        return value

    @model_validator(mode="before")
    @classmethod
    def _some_limit(cls, values: Any) -> Any:
        if isinstance(values, dict) and all(values.get(name) is None for name in ("steps", "minutes", "tokens")):
            values = {**values, "minutes": 20.0}
        return values

    @model_validator(mode="after")
    def _sense(self) -> TrainingSettings:
        for name in ("lr", "embedding_lr", "head_lr", "other_lr", "warmup"):
            value = getattr(self, name)
            if value != "auto" and value < 0:
                raise ValueError(f"{name} must be at least 0")
        if self.lora is not None and self.freeze != "none":
            raise ValueError("lora freezes the whole model already: leave freeze out")
        if isinstance(self.freeze, int) and self.freeze < 0:
            raise ValueError("freeze must be none, embeddings, body or a number of blocks")
        if self.betas != "auto" and not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError("betas must be two numbers from 0 to under 1")
        for name in ("evaluate_every", "checkpoint_every", "threads"):
            value = getattr(self, name)
            if value != "auto" and value < 1:
                raise ValueError(f"{name} must be at least 1")
        if self.threads != "auto" and self.threads > MOST_THREADS:
            raise ValueError(f"threads must be at most {MOST_THREADS}")
        if self.schedule == "inverse-sqrt" and self.warmup == 0:
            raise ValueError("schedule inverse-sqrt needs a warmup: it falls in proportion to it")
        return self

    @property
    def batch_budget(self) -> int:
        """batch_tokens, which is decided before the first batch."""
        assert isinstance(self.batch_tokens, int), "decided by now"
        return self.batch_tokens
