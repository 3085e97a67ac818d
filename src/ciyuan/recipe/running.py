"""From a recipe to a trained, scored, reported model: the one place where all parts meet.

data ──> tokenizer ──> token store ──> model ──> objective ──> loop (the best is kept) ──> final scores ──> report
"""

from __future__ import annotations

import contextlib
import platform
import shlex
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

import ciyuan
from ciyuan.config import write_settings
from ciyuan.data import Corpus, Prepared, TokenStore, prepare
from ciyuan.data.previews import preview
from ciyuan.doctor.preflight import look_before_training
from ciyuan.errors import DataError, RecipeError, TokenizerError
from ciyuan.evaluation import Scores
from ciyuan.interop import Loaded, load_model_folder, save_adapter, save_model_folder
from ciyuan.model import ModelConfig, Transformer, initialise
from ciyuan.model.config import PRESETS
from ciyuan.model.lora import adapt, adapters, merge, sharing
from ciyuan.model.transfer import Transferred, transfer
from ciyuan.objectives import Lexicon, Seq2Seq, can_warm_start, warm_start
from ciyuan.recipe.changing import change_of, check_changes
from ciyuan.recipe.places import cache_folder
from ciyuan.recipe.planning import Ground, in_numbers, is_open, settle, try_machine, wants_trial, with_vocabulary
from ciyuan.recipe.reporting import build_report, write_card
from ciyuan.recipe.resuming import Outcome, as_begun, check_data, finished
from ciyuan.recipe.settings import ASSUMED_VOCABULARY, Recipe, check_family
from ciyuan.recipe.tasks import Materials, Shown, Task, task_of
from ciyuan.recipe.tasks.task import Top
from ciyuan.report import render
from ciyuan.text import Tokenizer
from ciyuan.training import Monitor, RunFolder, TrainingResult, prepare_process, train
from ciyuan.training.freezing import freeze, freeze_base
from ciyuan.training.machine import product_speed
from ciyuan.training.monitor import Several
from ciyuan.training.rates import Learner, learnt_by, resolve

N_PREVIEWS = 3
TEXTS = frozenset({"source", "target", "text", "second", "question", "passage"})
"""Columns of a store that hold the ids of texts."""
NOTABLE_UNKNOWN = 0.005
"""Share of unknown tokens above which a person is told."""
MAX_COUNTED = 200_000
"""Pairs of which words are counted before the first step."""


def run_training(
    recipe: Recipe, out: str | Path, *, init: str | Path | None = None, resume: bool = False, monitor: Monitor
) -> Outcome:
    """Train what the recipe says into the folder `out`, and report.

    out: must be new or empty, or with `resume` a run to go on with; a finished one is left as it is. init: a model folder to start
    from instead of random weights.
    Raises UserError for whatever is wrong with recipe, data, model or folder, before anything is overwritten; Stopped.
    """
    if resume:
        recipe = as_begun(Path(out), recipe, init=init)
    if resume and (outcome := finished(Path(out), recipe, init=init)) is not None:
        monitor.on_message(
            f"this run is finished (step {outcome.steps:,}, {outcome.stopped_because}): nothing to do, nothing was changed"
        )
        return outcome
    heard = Several([monitor], [])
    with trained(recipe, out, init=init, resume=resume, monitor=heard) as done:
        warnings = tuple(dict.fromkeys([*heard.warnings, *done.result.warnings]))  # those of earlier sittings too
        result = replace(done.result, warnings=warnings)
        return _conclude(done.materials, done.task, done.run, result, heard)


@dataclass(frozen=True)
class Trained:
    """A run whose steps are done; what is left is to score and report."""

    run: RunFolder
    materials: Materials
    task: Task
    result: TrainingResult


@contextlib.contextmanager
def trained(
    recipe: Recipe, out: str | Path, *, init: str | Path | None = None, resume: bool = False, monitor: Monitor
) -> Iterator[Trained]:
    """All of a run but its end. The folder is held until the block is left."""
    out = Path(out)
    prepare_process(recipe.training.threads)
    start, family = begin(recipe, init, resume=resume)
    task = task_of(recipe.task, family)
    corpus = Corpus(recipe.data, task.shape(recipe, family))
    is_new = not out.exists()
    with RunFolder.open(out, resume=resume) as run:
        try:
            if resume:
                check_data(corpus, run)
            materials = prepare_run(recipe, task, family, corpus, run, start, monitor)
        except BaseException:
            if is_new and not any(path.name != ".lock" for path in out.iterdir()):
                shutil.rmtree(out, ignore_errors=True)  # nothing was begun: leave nothing behind
            raise
        if not (resume and (out / "recipe.yaml").exists()):
            run.write_manifest(_manifest(materials, init))
            run.write("recipe.yaml", write_settings(materials.recipe))  # last: where it is, the other is too
        began = time.monotonic()
        if recipe.task == "translate":
            materials = _informed(materials, run, init=init, monitor=monitor)
        spent = materials.spent + time.monotonic() - began
        result = _learn(materials, task, run, monitor, resume=resume, spent=spent)
        yield Trained(run, materials, task, result)


# --- Before ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Start:
    """What a run starts from. given: the model of --init, whose folder is `name`."""

    given: Loaded | None
    name: object
    resume: bool


def begin(recipe: Recipe, init: str | Path | None, *, resume: bool = False) -> tuple[Start, str]:
    """What the run starts from, and its family. Raises RecipeError where the recipe does not go with it."""
    if recipe.training.lora is not None and init is None:
        raise RecipeError(
            "training.lora learns adapters of a model that is there, and none is given",
            fix="name its folder with --init, or leave training.lora out",
        )
    given = None if init is None else load_model_folder(Path(init))
    if given is None:
        family = str(PRESETS[str(recipe.model.preset)]["family"])  # `read_recipe` has looked
    else:
        family = given.model.config.family
        check_family(recipe, family, f"the model {init}", "--init")
    return Start(given, init, resume), family


@dataclass(frozen=True)
class Gathered:
    """The text as tokens, before there is a model. recipe: its vocabulary decided. top: what stands on the model."""

    recipe: Recipe
    task: Task
    corpus: Corpus
    tokenizer: Tokenizer
    prepared: Prepared
    top: Top
    device: str
    start: Start

    def ground(self) -> Ground:
        """What the sizes are decided by."""
        given = None if self.start.given is None else self.start.given.model.config
        unique = sum(self.prepared.preflight.tokens.values())
        return Ground(self.task, self.device, unique, self._config, self._materials, given)

    def _config(self, recipe: Recipe) -> ModelConfig:
        return _new_config(recipe, self.tokenizer, self.top)

    def _materials(self, recipe: Recipe) -> Materials:
        model = _new_model(recipe, self.tokenizer, self.top)
        objective = self.task.objective(recipe, self.tokenizer, model.config, self.prepared)
        return Materials(recipe, self.corpus, self.tokenizer, self.prepared, model.to(self.device), objective)


def gather(
    recipe: Recipe, task: Task, family: str, corpus: Corpus, run: RunFolder, start: Start, monitor: Monitor
) -> Gathered:
    """What comes before the model; the refusals that cost nothing come first."""
    device = _device(recipe)
    labels = ("a", "b")  # however many there will be: what cannot be saved is refused before anything is spent
    if start.given is not None:
        _check_sizes(start.given.model.config, recipe, start.name)
        if recipe.training.lora is not None:
            adapt(sharing(start.given.model), recipe.training.lora, seed=0)
        task.top(recipe, family, labels).on(start.given.model.config)
    else:
        task.top(recipe, family, labels).on(recipe.model.build(ASSUMED_VOCABULARY, pad_id=0, bos_id=1, eos_id=2))
    check_changes(recipe)
    task.check(recipe, corpus)
    if start.given is None and recipe.tokenizer.path is None:
        recipe = with_vocabulary(recipe, corpus, device)
    tokenizer = _tokenizer(recipe, task, family, corpus, run, start, monitor)
    if family == "encoder-decoder":
        tokenizer.check_writes()
    monitor.on_message("preparing the data")
    prepared = prepare(corpus, tokenizer, cache_folder() / "data", **task.preparation(recipe, family, tokenizer))
    for line in prepared.preflight.lines():
        monitor.on_message(line)
    if not start.resume:
        remarks = look_before_training(corpus)
        for line in remarks.messages:
            monitor.on_message(line)
        for line in remarks.warnings:
            monitor.on_warning(line)
    unknown = unknown_share(prepared.train, tokenizer)
    if unknown > NOTABLE_UNKNOWN:
        monitor.on_warning(
            f"{unknown:.1%} of the tokens are unknown to the tokeniser, so what they said is lost: "
            "raise tokenizer.vocab_size, or choose a kind that spells rare characters in bytes"
        )
    top = task.top(recipe, family, prepared.labels)
    recipe = recipe.model_copy(update={"training": resolve(recipe.training, _learner(recipe, start))})
    return Gathered(recipe, task, corpus, tokenizer, prepared, top, device, start)


def _learner(recipe: Recipe, start: Start) -> Learner:
    if start.given is not None:
        return Learner.of(start.given.model.config, learnt_by(start.given.info))
    return Learner.of(recipe.model.build(ASSUMED_VOCABULARY, pad_id=0, bos_id=1, eos_id=2))


def prepare_run(
    recipe: Recipe, task: Task, family: str, corpus: Corpus, run: RunFolder, start: Start, monitor: Monitor
) -> Materials:
    """Everything that is needed before the first step."""
    found = gather(recipe, task, family, corpus, run, start, monitor)
    recipe, tokenizer, prepared = found.recipe, found.tokenizer, found.prepared
    spent = 0.0
    if is_open(recipe):
        ground = found.ground()
        machine = try_machine(recipe, ground) if wants_trial(recipe) and start.given is None else None
        plan = settle(recipe, ground, machine)
        recipe, spent = plan.recipe, 0.0 if machine is None else machine.took
        tried = f"; {spent:.0f} of its seconds went into trying the machine" if spent else ""
        monitor.on_message(f"planned: {plan.line()}{tried}; `ciyuan plan` shows why")
        prepare_process(recipe.training.threads)
    else:
        recipe = in_numbers(recipe)
    materials = build(found, recipe, monitor, spent=spent)
    loader, examples = task.batches(materials)
    if not (run.path / "tokenizer.json").exists():
        for name, text in reversed(tokenizer.files().items()):  # tokenizer.json last: where it is, the other is too
            run.write(name, text)
    if not start.resume:
        _, numbers = loader.at(0)
        shown = numbers[:N_PREVIEWS]
        batch = materials.objective.collate(examples(shown), numbers=shown.tolist(), epoch=0)
        monitor.on_preview(preview(batch, tokenizer, rows=N_PREVIEWS, labels=prepared.labels))
    return materials


def build(found: Gathered, recipe: Recipe, monitor: Monitor, *, spent: float = 0.0) -> Materials:
    """The model that is trained and the question that is put to it. recipe: in numbers."""
    if found.start.given is None:
        model, new = _new_model(recipe, found.tokenizer, found.top), tuple[str, ...]()
    else:
        moved = _given_model(found.start.given.model, recipe, found.top, monitor)
        model, new = moved.model, moved.new
    if recipe.training.lora is None:
        frozen = freeze(model, recipe.training.freeze)
    else:
        adapt(model, recipe.training.lora, seed=recipe.training.seed)
        frozen = freeze_base(model, new)
    if frozen:
        monitor.on_message(
            f"frozen: {frozen:,} of {sum(p.numel() for p in model.parameters()):,} parameters stay as they are"
        )
    objective = found.task.objective(recipe, found.tokenizer, model.config, found.prepared)
    return Materials(
        recipe, found.corpus, found.tokenizer, found.prepared, model.to(found.device), objective, init=found.start.name,
        spent=spent,
    )  # fmt: skip


def unknown_share(store: TokenStore, tokenizer: Tokenizer) -> float:
    """Of all tokens of the texts, those that the tokeniser does not know."""
    if not tokenizer.has("unk"):
        return 0.0
    texts = [column.tokens for name, column in store.columns.items() if name in TEXTS]
    unknown = sum(int((tokens == tokenizer.unk_id).sum()) for tokens in texts)
    return unknown / max(1, sum(map(len, texts)))


def _device(recipe: Recipe) -> str:
    wanted, there = recipe.training.device, torch.cuda.is_available()
    if wanted == "cuda" and not there:
        raise RecipeError("training.device is cuda, and torch finds no GPU here", fix="set it to cpu or auto")
    return ("cuda" if there else "cpu") if wanted == "auto" else wanted


def _tokenizer(
    recipe: Recipe, task: Task, family: str, corpus: Corpus, run: RunFolder, start: Start, monitor: Monitor
) -> Tokenizer:
    """The run's own when it goes on; the given model's; the one that the recipe names; or a new one, trained on the data."""
    wanted = recipe.tokenizer
    named = Tokenizer.load(wanted.path) if wanted.path is not None else None
    of_init = None if start.given is None else start.given.tokenizer
    if of_init is not None and named is not None and named.fingerprint != of_init.fingerprint:
        raise TokenizerError(
            f"tokenizer {wanted.path} is not the one that the model {start.name} was trained with",
            fix="leave `tokenizer` out: the model brings its own",
        )
    if start.resume and (run.path / "tokenizer.json").exists():
        found = Tokenizer.load(run.path)
        if (named or of_init or found).fingerprint != found.fingerprint:
            raise TokenizerError("the tokenizer is not the one that the run was begun with", where=run.path)
        return found
    if of_init is not None or named is not None:
        monitor.on_message(f"tokenizer: that of {start.name if of_init is not None else wanted.path}")
        chosen = of_init or named
        assert chosen is not None
    else:
        monitor.on_message(f"training a tokenizer: {wanted.kind}, {wanted.vocab_size:,} tokens")
        special, template = task.special(family, recipe)
        chosen = Tokenizer.train(corpus.texts(), wanted, special, template=template)
        read = chosen.sample
        if read is not None and read.used_bytes < read.all_bytes:
            monitor.on_message(
                f"the tokenizer learnt from {read.used_bytes:,} of {read.all_bytes:,} bytes (max_memory_mb)"
            )
    return chosen


def _new_config(recipe: Recipe, tokenizer: Tokenizer, top: Top) -> ModelConfig:
    bos_id = tokenizer.bos_id if tokenizer.has("bos") else None
    eos_id = tokenizer.eos_id if tokenizer.has("eos") else None
    return top.on(recipe.model.build(tokenizer.vocab_size, pad_id=tokenizer.pad_id, bos_id=bos_id, eos_id=eos_id))


def _new_model(recipe: Recipe, tokenizer: Tokenizer, top: Top) -> Transformer:
    model = Transformer(_new_config(recipe, tokenizer, top))
    initialise(model, scheme=recipe.model.initialisation or "zero_output", seed=recipe.training.seed)
    return model


FREE = ("dropout", "attention_dropout", "activation_dropout")
"""What may differ from the model that a run starts from."""


def _check_sizes(config: ModelConfig, recipe: Recipe, name: object) -> None:
    """Another architecture than the given model's own is refused."""
    for field, value in recipe.model.model_dump(
        exclude={"preset", "size", "initialisation", *FREE}, exclude_none=True
    ).items():
        own = getattr(config, field)
        if own != value:
            raise RecipeError(
                f"model.{field} is {value} in the recipe, and {own} in the model {name}",
                fix=f"leave model.{field} out: the model keeps its architecture",
            )


def _given_model(model: Transformer, recipe: Recipe, top: Top, monitor: Monitor) -> Transferred:
    """The model to start from, with the head of the task and the recipe's dropout; what is new and what is not used is said."""
    changes = recipe.model.model_dump(include=set(FREE), exclude_none=True)
    config = top.on(model.config.model_copy(update=changes))
    scheme = recipe.model.initialisation or "zero_output"
    moved = transfer(model, config, scheme=scheme, seed=recipe.training.seed)
    for what, names in (("new, to be learnt", moved.new), ("of the given model, not used", moved.unused)):
        if names:
            monitor.on_message(f"{what}: {', '.join(names)}")
    return moved


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
    assert isinstance(objective, Seq2Seq)
    begun = any((run.path / "checkpoints").glob("step-*"))  # then the weights come from there
    wants_start = settings.warm_start and init is None and not begun and can_warm_start(model)
    if not (settings.guidance or wants_start):
        return materials
    kept = run.path / "lexicon.safetensors"
    end = np.array([objective.eos_id])
    store = materials.prepared.train
    pairs = [(np.append(x, end), np.append(y, end)) for x, y in store.examples(np.arange(min(len(store), MAX_COUNTED)))]
    lexicon = None
    if begun and kept.exists():
        try:
            lexicon = Lexicon.load(kept, vocab_size=model.config.vocab_size)
        except DataError as error:
            monitor.on_warning(f"{error}; it is made again")
    if lexicon is None:
        monitor.on_message("counting which words go together")
        lexicon = Lexicon.learn(pairs, vocab_size=model.config.vocab_size)
        lexicon.save(kept)
    if wants_start:
        warm_start(model, lexicon, pairs, start_id=objective.start_id, seed=settings.seed)
    guided = Seq2Seq(
        pad_id=objective.pad_id,
        start_id=objective.start_id,
        eos_id=objective.eos_id,
        first_id=objective.first_id,
        source_head=objective.source_head,
        source_tail=objective.source_tail,
        label_smoothing=settings.label_smoothing,
        lexicon=lexicon,
        alignment_weight=settings.guidance,
    )
    return replace(materials, objective=guided)


def _learn(
    materials: Materials, task: Task, run: RunFolder, monitor: Monitor, *, resume: bool, spent: float
) -> TrainingResult:
    loader, examples = task.batches(materials)
    return train(
        materials.model,
        materials.objective,
        examples,
        loader,
        materials.recipe.training,
        run=run,
        evaluate=(lambda model: task.quick(materials, model)) if materials.prepared.dev_records else None,
        save_best=lambda model: save(run.path, materials, task, model),
        change=change_of(materials),
        ceiling=product_speed(
            next(materials.model.parameters()).device,
            torch.bfloat16 if materials.recipe.training.precision == "bf16" else torch.float32,
        ),
        monitor=monitor,
        resume=resume,
        spent=spent,
    )


def save(folder: Path, materials: Materials, task: Task, model: Transformer, scores: Scores | None = None) -> None:
    """The model folder, with what is ours beside it; adapters are kept by themselves, and merged into the model."""
    recipe = materials.recipe
    info: dict[str, Any] = {
        "task": recipe.task,
        **task.info(materials),
        "recipe": write_settings(recipe),
        "ciyuan": ciyuan.__version__,
        "data": {"files": list(materials.corpus.files), "sha256": materials.corpus.content},
        "scores": {} if scores is None else dict(scores.metrics),
        "signatures": {} if scores is None else dict(scores.signatures),
        "scored_on": 0 if scores is None else scores.examples,
    }
    wording = task.wording(recipe, "THIS_FOLDER", ())
    whole = merge(model) if adapters(model) else model
    card = write_card(info, recipe, wording, whole, materials.prepared.preflight)
    if whole is not model:
        base = str(Path(str(materials.init)).resolve())
        save_adapter(folder / "adapter", model, {**info, "tokenizer": materials.tokenizer.fingerprint}, base=base)
    save_model_folder(folder, whole, materials.tokenizer, info, card)


# --- Afterwards --------------------------------------------------------------------------------------------------------


def _conclude(materials: Materials, task: Task, run: RunFolder, result: TrainingResult, monitor: Monitor) -> Outcome:
    """Score the best model on everything held out, and write the report, last of all."""
    best = load_model_folder(run.path).model.to(next(materials.model.parameters()).device).eval()
    scores, shown = None, Shown()
    n_dev = materials.prepared.preflight.dev_examples
    if materials.prepared.dev_records:
        monitor.on_message(f"scoring the best model on {n_dev:,} held-out examples")
        scores = task.score(materials, best)
        for warning in scores.warnings:
            monitor.on_warning(warning)
        save(run.path, materials, task, best, scores)
        shown = task.show(materials, best, scores)
    folder = shlex.quote(str(run.path))
    wording = task.wording(materials.recipe, folder, () if scores is None else scores.rows)
    report = build_report(run, materials.recipe, materials.prepared.preflight, best, result, scores, shown, wording)
    path = run.write("report.html", render(report))
    return Outcome(
        folder=run.path,
        task=materials.recipe.task,
        examples=0 if scores is None else scores.examples,
        metrics={} if scores is None else dict(scores.metrics),
        signatures={} if scores is None else dict(scores.signatures),
        steps=result.steps,
        seconds=round(result.seconds, 1),
        best_step=result.best_step,
        stopped_because=result.stopped_because,
        report=path,
        next_commands=wording.commands[:2],
        warnings=(*result.warnings, *(() if scores is None else scores.warnings)),
    )
