"""From a recipe to a trained, scored, reported model: the one place where all parts meet.

data ──> tokenizer ──> token store ──> model ──> objective ──> loop (the best is kept) ──> final scores ──> report
"""

from __future__ import annotations

import platform
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

import ciyuan
from ciyuan.config import write_settings
from ciyuan.data import Corpus, Loader, Prepared, prepare
from ciyuan.errors import RecipeError, TokenizerError, UserError
from ciyuan.evaluation import Scores, evaluate_translator
from ciyuan.evaluation.metrics import bleu
from ciyuan.generation import DecodingSettings
from ciyuan.interop import family_of, load_model_folder, save_model_folder
from ciyuan.model import Transformer, initialise
from ciyuan.objectives import Lexicon, Seq2Seq, can_warm_start, warm_start
from ciyuan.recipe.places import cache_folder
from ciyuan.recipe.reporting import Attention, build_report, write_card
from ciyuan.recipe.settings import Recipe
from ciyuan.report import render
from ciyuan.text import Tokenizer
from ciyuan.training import Monitor, RunFolder, TrainingResult, prepare_process, train

QUICK_EXAMPLES = 100
"""Held-out examples translated at each evaluation on the way; the final scores are over all of them."""
QUICK = DecodingSettings(beam=1, length_factor=1.5, length_extra=10)
"""Of evaluations on the way: a model that does not end its texts yet must not take the run's minutes to say so."""
BEAM = 4
"""Of the final scores, and what `translate` and `evaluate` do unless told otherwise."""
N_SAMPLES = 10
MAX_COUNTED = 200_000
"""Pairs of which words are counted before the first step."""


@dataclass(frozen=True)
class Outcome:
    """What a finished run has to say. examples: held-out ones, over which the scores are."""

    folder: Path
    task: str
    examples: int
    metrics: Mapping[str, float]
    signatures: Mapping[str, str]
    steps: int
    seconds: float
    best_step: int | None
    stopped_because: str
    report: Path
    next_commands: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        return {name: str(value) if isinstance(value, Path) else value for name, value in asdict(self).items()}


@dataclass(frozen=True)
class Materials:
    """What is at hand once the data is prepared."""

    recipe: Recipe
    corpus: Corpus
    tokenizer: Tokenizer
    prepared: Prepared
    model: Transformer
    objective: Seq2Seq

    @property
    def dev(self) -> list[tuple[str, str]]:
        return [(record.fields["source"], record.fields["target"]) for record in self.prepared.dev_records]


def run_training(
    recipe: Recipe, out: str | Path, *, init: str | Path | None = None, resume: bool = False, monitor: Monitor
) -> Outcome:
    """Train what the recipe says into the folder `out`, and report.

    out: must be new or empty, or with `resume` a run to go on with. init: a model folder to start from instead of random weights.
    Raises UserError for whatever is wrong with recipe, data, model or folder, before anything is overwritten; Stopped.
    """
    out = Path(out)
    prepare_process(recipe.training.threads)
    corpus = Corpus(recipe.data, "pairs")
    is_new = not out.exists()
    with RunFolder.open(out, resume=resume) as run:
        try:
            materials = _prepare(recipe, corpus, run, init=init, resume=resume, monitor=monitor)
        except BaseException:
            if is_new and not any(path.name != ".lock" for path in out.iterdir()):
                shutil.rmtree(out, ignore_errors=True)  # nothing was begun: leave nothing behind
            raise
        if not (resume and (out / "recipe.yaml").exists()):
            run.write("recipe.yaml", write_settings(recipe))
            run.write_manifest(_manifest(materials, init))
        began = time.monotonic()
        materials = _informed(materials, run, init=init, monitor=monitor)
        result = _learn(materials, run, monitor, resume=resume, spent=time.monotonic() - began)
        return _conclude(materials, run, result, monitor)


# --- Before ------------------------------------------------------------------------------------------------------------


def _prepare(
    recipe: Recipe, corpus: Corpus, run: RunFolder, *, init: str | Path | None, resume: bool, monitor: Monitor
) -> Materials:
    """Everything that is needed before the first step; the refusals that cost nothing come first."""
    device = _device(recipe)
    given = None if init is None else load_model_folder(Path(init))
    start = None if given is None else _adapted(given.model, recipe, init)
    _check_target(recipe, corpus)
    tokenizer = _tokenizer(recipe, corpus, run, None if given is None else given.tokenizer, init, resume, monitor)
    model = start or _new_model(recipe, tokenizer)
    monitor.on_message("preparing the data")
    prepared = prepare(corpus, tokenizer, cache_folder() / "data")
    for line in prepared.preflight.lines():
        monitor.on_message(line)
    if not (run.path / "tokenizer.json").exists():
        tokenizer.save(run.path)
    config = model.config
    assert config.eos_id is not None, "whoever translates knows its end"
    objective = Seq2Seq(
        pad_id=config.pad_id,
        start_id=config.decoder_start,
        eos_id=config.eos_id,
        label_smoothing=recipe.training.label_smoothing,
    )
    return Materials(recipe, corpus, tokenizer, prepared, model.to(device), objective)


def _device(recipe: Recipe) -> str:
    wanted, there = recipe.training.device, torch.cuda.is_available()
    if wanted == "cuda" and not there:
        raise RecipeError("training.device is cuda, and torch finds no GPU here", fix="set it to cpu or auto")
    return ("cuda" if there else "cpu") if wanted == "auto" else wanted


def _check_target(recipe: Recipe, corpus: Corpus) -> None:
    """A target language whose scores would mean nothing is refused now, not at the first evaluation."""
    references = [record.fields["target"] for record in corpus.dev]
    if references:
        try:
            bleu(references, references, language=recipe.data.target)
        except UserError as error:
            raise RecipeError(
                f"{recipe.data.target} is not what the target side is written in: {error.found}", where="data.target"
            ) from None


def _tokenizer(
    recipe: Recipe,
    corpus: Corpus,
    run: RunFolder,
    of_init: Tokenizer | None,
    init: object,
    resume: bool,
    monitor: Monitor,
) -> Tokenizer:
    """The run's own when it goes on; the given model's; the one that the recipe names; or a new one, trained on the data."""
    wanted = recipe.tokenizer
    named = Tokenizer.load(wanted.path) if wanted.path is not None else None
    if of_init is not None and named is not None and named.fingerprint != of_init.fingerprint:
        raise TokenizerError(
            f"tokenizer {wanted.path} is not the one that the model {init} was trained with",
            fix="leave `tokenizer` out: the model brings its own",
        )
    if resume and (run.path / "tokenizer.json").exists():
        found = Tokenizer.load(run.path)
        if (named or of_init or found).fingerprint != found.fingerprint:
            raise TokenizerError("the tokenizer is not the one that the run was begun with", where=run.path)
        return found
    if of_init is not None or named is not None:
        monitor.on_message(f"tokenizer: that of {init if of_init is not None else wanted.path}")
        chosen = of_init or named
        assert chosen is not None
    else:
        monitor.on_message(f"training a tokenizer: {wanted.kind}, {wanted.vocab_size:,} tokens")
        chosen = Tokenizer.train(corpus.texts(), wanted)
        read = chosen.sample
        if read is not None and read.used_bytes < read.all_bytes:
            monitor.on_message(
                f"the tokenizer learnt from {read.used_bytes:,} of {read.all_bytes:,} bytes (max_memory_mb)"
            )
    return chosen


def _new_model(recipe: Recipe, tokenizer: Tokenizer) -> Transformer:
    config = recipe.model.build(
        tokenizer.vocab_size, pad_id=tokenizer.pad_id, bos_id=tokenizer.bos_id, eos_id=tokenizer.eos_id
    )
    family_of(config)  # what cannot be saved is refused before it is trained
    model = Transformer(config)
    initialise(model, scheme=recipe.model.initialisation or "zero_output", seed=recipe.training.seed)
    return model


def _adapted(model: Transformer, recipe: Recipe, init: object) -> Transformer:
    """The model to start from, with the recipe's dropout; another architecture than its own is refused."""
    if model.config.family != "encoder-decoder":
        raise RecipeError(f"a {model.config.family} cannot translate", where=f"--init {init}")
    changes = recipe.model.model_dump(exclude={"preset", "initialisation"}, exclude_none=True)
    free: dict[str, Any] = {
        name: changes.pop(name) for name in ("dropout", "attention_dropout", "activation_dropout") if name in changes
    }
    for name, value in changes.items():
        own = getattr(model.config, name)
        if own != value:
            raise RecipeError(
                f"model.{name} is {value} in the recipe, and {own} in the model {init}",
                fix=f"leave model.{name} out: the model keeps its architecture",
            )
    if not free:
        return model
    adapted = Transformer(model.config.model_copy(update=free))
    adapted.load_state_dict(model.state_dict())
    return adapted


def _manifest(materials: Materials, init: object) -> dict[str, Any]:
    """Where the run comes from: enough to make it again."""
    import tokenizers

    return {
        "ciyuan": ciyuan.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "torch": torch.__version__,
        "tokenizers": tokenizers.__version__,
        "numpy": np.__version__,
        "threads": torch.get_num_threads(),
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "seed": materials.recipe.training.seed,
        "init": None if init is None else str(init),
        "data": {"files": list(materials.corpus.files), "sha256": materials.corpus.content},
        "tokenizer": materials.tokenizer.fingerprint,
        "examples": materials.prepared.preflight.examples,
    }


# --- Learning ----------------------------------------------------------------------------------------------------------


def _informed(materials: Materials, run: RunFolder, *, init: object, monitor: Monitor) -> Materials:
    """The materials with what counting the pairs tells before the first step: word links, and a warm start for a new model."""
    settings, model, objective = materials.recipe.training, materials.model, materials.objective
    begun = any((run.path / "checkpoints").glob("step-*"))  # then the weights come from there
    wants_start = settings.warm_start and init is None and not begun and can_warm_start(model)
    if not (settings.guidance or wants_start):
        return materials
    kept = run.path / "lexicon.safetensors"
    end = np.array([objective.eos_id])
    store = materials.prepared.train
    pairs = [(np.append(x, end), np.append(y, end)) for x, y in store.examples(np.arange(min(len(store), MAX_COUNTED)))]
    if begun and kept.exists():
        lexicon = Lexicon.load(kept, vocab_size=model.config.vocab_size)
    else:
        monitor.on_message("counting which words go together")
        lexicon = Lexicon.learn(pairs, vocab_size=model.config.vocab_size)
        lexicon.save(kept)
    if wants_start:
        warm_start(model, lexicon, pairs, start_id=objective.start_id, seed=settings.seed)
    guided = Seq2Seq(
        pad_id=objective.pad_id,
        start_id=objective.start_id,
        eos_id=objective.eos_id,
        label_smoothing=settings.label_smoothing,
        lexicon=lexicon,
        alignment_weight=settings.guidance,
    )
    return replace(materials, objective=guided)


def _learn(materials: Materials, run: RunFolder, monitor: Monitor, *, resume: bool, spent: float) -> TrainingResult:
    settings, store = materials.recipe.training, materials.prepared.train
    loader = Loader(store.lengths("source", "target"), settings.batch_tokens, settings.seed)
    return train(
        materials.model,
        materials.objective,
        store.examples,
        loader,
        settings,
        run=run,
        evaluate=_quick_evaluation(materials) if materials.dev else None,
        save_best=lambda model: save(run.path, materials, model),
        monitor=monitor,
        resume=resume,
        spent=spent,
    )


def _quick_evaluation(materials: Materials) -> Callable[[Transformer], dict[str, float]]:
    """Scores of greedy translations of some held-out examples, and their loss; the first is the one to choose by."""
    pairs = [materials.dev[i] for i in spread(len(materials.dev), QUICK_EXAMPLES)]

    def evaluate(model: Transformer) -> dict[str, float]:
        metrics = _score(materials, model, pairs, QUICK).metrics
        return {"chrf": metrics["chrf"], "bleu": metrics["bleu"], "nll": metrics["nll"]}

    return evaluate


def _score(
    materials: Materials, model: Transformer, pairs: Sequence[tuple[str, str]], decoding: DecodingSettings
) -> Scores:
    data = materials.recipe.data
    return evaluate_translator(
        model, materials.tokenizer, pairs, source=data.source, target=data.target,
        settings=decoding, max_source=data.max_length,
    )  # fmt: skip


def save(folder: Path, materials: Materials, model: Transformer, scores: Scores | None = None) -> None:
    """The model folder, with what is ours beside it."""
    recipe = materials.recipe
    info: dict[str, Any] = {
        "task": recipe.task,
        "source": recipe.data.source,
        "target": recipe.data.target,
        "max_length": recipe.data.max_length,
        "recipe": write_settings(recipe),
        "ciyuan": ciyuan.__version__,
        "data": {"files": list(materials.corpus.files), "sha256": materials.corpus.content},
        "scores": {} if scores is None else dict(scores.metrics),
        "signatures": {} if scores is None else dict(scores.signatures),
        "scored_on": 0 if scores is None else len(materials.dev),
    }
    save_model_folder(folder, model, materials.tokenizer, info, write_card(info, model, materials.prepared.preflight))


# --- Afterwards --------------------------------------------------------------------------------------------------------


def _conclude(materials: Materials, run: RunFolder, result: TrainingResult, monitor: Monitor) -> Outcome:
    """Score the best model on everything held out, and write the report, last of all."""
    best = load_model_folder(run.path).model.to(next(materials.model.parameters()).device).eval()
    scores = None
    if materials.dev:
        monitor.on_message(f"translating {len(materials.dev):,} held-out sentences with beam {BEAM}")
        scores = _score(materials, best, materials.dev, DecodingSettings(beam=BEAM))
        for warning in scores.warnings:
            monitor.on_warning(warning)
        save(run.path, materials, best, scores)
    rows = () if scores is None else scores.rows
    samples = [rows[i] for i in spread(len(rows), N_SAMPLES)]
    attention = Attention(best, materials.tokenizer, materials.objective).of_any(
        [(row.source, row.output) for row in rows]
    )
    report = build_report(run, materials.recipe, materials.prepared.preflight, best, result, scores, samples, attention)
    path = run.write("report.html", render(report))
    folder = shlex.quote(str(run.path))
    example = shlex.quote(min((row.source for row in samples), key=len, default="…"))
    return Outcome(
        folder=run.path,
        task=materials.recipe.task,
        examples=len(materials.dev),
        metrics={} if scores is None else dict(scores.metrics),
        signatures={} if scores is None else dict(scores.signatures),
        steps=result.steps,
        seconds=round(result.seconds, 1),
        best_step=result.best_step,
        stopped_because=result.stopped_because,
        report=path,
        next_commands=(f"ciyuan translate {folder} {example}", f"ciyuan evaluate {folder} --data YOUR_PAIRS.tsv"),
    )


def spread(n: int, wanted: int) -> list[int]:
    """So many of 0 … n − 1, taken evenly."""
    wanted = min(n, wanted)
    return [i * n // wanted for i in range(wanted)]
