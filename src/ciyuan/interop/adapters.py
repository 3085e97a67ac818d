"""Low-rank adapters in the file format of PEFT, so that `peft.PeftModel.from_pretrained` loads them beside their base.

adapter_config.json · adapter_model.safetensors: everybody's, in the Hugging Face spelling of the family's rename table
ciyuan.json: what is ours alone, among it the signature of the base

Where the family keeps several of our matrices in one of theirs (q, k and v of GPT-2), their products become one of higher rank:

    [ΔQ; ΔK; ΔV] = [[B_q, 0, 0], [0, B_k, 0], [0, 0, B_v]] · [A_q; A_k; A_v]
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ciyuan.errors import ModelFolderError
from ciyuan.interop.ends import ENDS
from ciyuan.interop.folder import PICKLES, Folder, Weights
from ciyuan.interop.huggingface import INFO, Loaded, family_of, with_head, write_files
from ciyuan.interop.mapping import InTurn, Merged, Pair, Same, Transposed, listed, shown_name
from ciyuan.interop.settings import TheirSettings
from ciyuan.model.config import ModelConfig
from ciyuan.model.lora import LowRank, adapters, attach, borrow, is_adapter, sharing, signature
from ciyuan.model.transfer import transfer
from ciyuan.model.transformer import Transformer
from ciyuan.text.files import GET_AGAIN

SETTINGS, TENSORS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
A, B = ".lora_A.weight", ".lora_B.weight"

TASKS = {("language-model", "decoder"): "CAUSAL_LM", ("language-model", "encoder-decoder"): "SEQ_2_SEQ_LM"}
HEADS = {"classification": "SEQ_CLS", "span": "QUESTION_ANS"}
ALWAYS = ("classifier", "score", "qa_outputs")
"""Modules that PEFT looks for in the file of such a task, learnt or not."""


@dataclass(frozen=True)
class Site:
    """One matrix of theirs and the layers of ours that it holds, one below the other. rows: of each; turned: stored (in, out)."""

    theirs: str
    layers: tuple[str, ...]
    rows: tuple[int, ...]
    turned: bool


# --- Out ---------------------------------------------------------------------------------------------------------------


def save_adapter(folder: str | Path, model: Transformer, info: Mapping[str, Any], *, base: str) -> None:
    """Write what a model with adapters has learnt: the adapters, and the parameters that are trained beside them, a head's.

    info: what only we need, JSON values. base: the folder of the model that the adapters belong to, as PEFT is to find it.
    Each file is whole or as it was before. Raises DiskError.
    """
    config, learnt = model.config, adapters(model)
    new = {name for name, parameter in model.named_parameters() if parameter.requires_grad and not is_adapter(name)}
    state, pairs = _renamed(model)
    tensors: dict[str, Tensor] = {}
    products: dict[str, LowRank] = {}
    turned = False
    for site in _sites(state, pairs):
        if any(layer in learnt for layer in site.layers):
            products[site.theirs] = one = _joined([learnt.get(layer) for layer in site.layers], site.rows)
            tensors |= {f"{PREFIX}{site.theirs}{A}": one.a, f"{PREFIX}{site.theirs}{B}": one.b}
            turned = turned or site.turned
    modules = {_module(theirs) for pair in pairs if new & set(pair.ours) for theirs in pair.theirs}
    modules |= {_module(theirs) for pair in pairs for theirs in pair.theirs if _module(theirs) in ALWAYS}
    for pair in pairs:
        if modules & set(map(_module, pair.theirs)):
            new |= set(pair.ours)
            changed = pair.change.to_theirs([state[name] for name in pair.ours])
            tensors |= {PREFIX + theirs: tensor for theirs, tensor in zip(pair.theirs, changed, strict=True)}
    usual = next(iter(products.values()))
    settings = {
        "peft_type": "LORA",
        "task_type": TASKS.get((config.head, config.family), HEADS.get(config.head)),
        "base_model_name_or_path": base,
        "inference_mode": True,
        "r": _rank(usual), "lora_alpha": _alpha(usual), "lora_dropout": 0.0,
        "rank_pattern": {name: _rank(one) for name, one in products.items() if _rank(one) != _rank(usual)},
        "alpha_pattern": {name: _alpha(one) for name, one in products.items() if _alpha(one) != _alpha(usual)},
        "target_modules": _briefly(list(products), [theirs for pair in pairs for theirs in pair.theirs]),
        "modules_to_save": sorted(modules) or None,
        "fan_in_fan_out": turned,
        "bias": "none",
    }  # fmt: skip
    top = {"head": config.head, "n_labels": config.n_labels, "next_sentence": config.next_sentence}
    own = {**info, "format": 1, "top": top, "base": signature(model, new)}
    texts = {
        name: json.dumps(value, indent=2, ensure_ascii=False) + "\n"
        for name, value in ((SETTINGS, settings), (INFO, own))
    }
    contents = {name: tensor.detach().cpu().contiguous() for name, tensor in sorted(tensors.items())}
    write_files(Path(folder), texts, {TENSORS: contents})


def _renamed(model: Transformer) -> tuple[dict[str, Tensor], list[Pair]]:
    """The model's tensors without adapters, and the rename table of their names."""
    state = {name.replace(".base.", "."): tensor for name, tensor in model.state_dict().items() if not is_adapter(name)}
    family = family_of(model.config)
    assert family.plain(model.config) == model.config, "a model from a folder is in the form of its family"
    return state, family.table(model.config).pairs(state)


def _sites(state: Mapping[str, Tensor], pairs: Sequence[Pair]) -> Iterator[Site]:
    """Where an adapter may be: the matrices of the blocks."""
    for pair in pairs:
        if all(".blocks." in name and state[name].ndim == 2 for name in pair.ours):
            steps = pair.change.changes if isinstance(pair.change, InTurn) else (pair.change,)
            assert all(isinstance(step, Same | Merged | Transposed) for step in steps), (
                "no block's matrix is changed otherwise"
            )
            yield Site(
                pair.theirs[0].removesuffix(".weight"),
                tuple(name.removesuffix(".weight") for name in pair.ours),
                tuple(len(state[name]) for name in pair.ours),
                any(isinstance(step, Transposed) for step in steps),
            )


def _joined(parts: Sequence[LowRank | None], rows: Sequence[int]) -> LowRank:
    """The product for layers one below the other; exact, and of the ranks' sum."""
    there = [part for part in parts if part is not None]
    if len(parts) == 1:
        return there[0]
    scale = there[0].scale
    blocks, ranks, before = [], [len(part.a) for part in there], 0
    for part, n in zip(parts, rows, strict=True):
        block = there[0].b.new_zeros(n, sum(ranks))
        if part is not None:
            block[:, before : before + len(part.a)] = part.b * (part.scale / scale)
            before += len(part.a)
        blocks.append(block)
    return LowRank(torch.cat([part.a for part in there]), torch.cat(blocks), scale)


def _module(tensor: str) -> str:
    return tensor.rpartition(".")[0]


def _rank(product: LowRank) -> int:
    return len(product.a)


def _alpha(product: LowRank) -> float:
    alpha = round(product.scale * len(product.a), 9)
    return int(alpha) if alpha == int(alpha) else alpha


def _briefly(chosen: Sequence[str], tensors: Sequence[str]) -> list[str]:
    """The modules by their last names, where these name no other module; else in full."""
    last = {name.rpartition(".")[2] for name in chosen}
    named = {module for module in map(_module, tensors) if module.rpartition(".")[2] in last}
    return sorted(last if named == set(chosen) else chosen)


# --- In ----------------------------------------------------------------------------------------------------------------


def load_adapter(folder: str | Path, base: Loaded) -> Loaded:
    """The base with an adapter in use: a model of its own, which shares the base's memory and leaves it as it is.

    Reads what we write and what PEFT writes; nothing is downloaded, no code is run, no pickle is read.
    Raises ModelFolderError where the adapter is missing, damaged, of another base, or of a kind that we do not compute.
    """
    files = Folder(folder)
    settings, own = _read_settings(files), files.read_json(INFO) or {}
    if own.get("tokenizer", base.tokenizer.fingerprint) != base.tokenizer.fingerprint:
        raise _of_another(files)
    with Weights(files, [TENSORS]) as weights:
        weights.verify()
        config = _config(files, settings.task, own, base.model.config, weights)
        model, missing = _beside(base.model, config)
        used: set[str] = set()
        state, pairs = _renamed(model)
        try:
            new = _take_new(model, pairs, weights, used)
            learnt = _take_products(_sites(state, pairs), settings, weights, used)
            attach(model, learnt)
        except ModelFolderError:
            raise
        except (ValueError, KeyError, RuntimeError) as error:
            raise ModelFolderError(
                f"does not fit the model: {shown_name(error)}", where=weights.where, fix=FITTING
            ) from None
        _check_all_used(weights, used, missing - new)
    if "base" in own and own["base"] != signature(model, new):
        raise _of_another(files)
    ends = {name: base.info[name] for name in (ENDS,) if name in base.info}
    return Loaded(model.eval(), base.tokenizer, {**own, **ends} if own else base.info)


FITTING = "give the model that it was learnt beside"


def _of_another(files: Folder) -> ModelFolderError:
    return ModelFolderError("this adapter was learnt beside another model", where=shown_name(files.path), fix=FITTING)


@dataclass(frozen=True)
class _Settings:
    """What adapter_config.json says. alphas: of single modules, by their last names."""

    task: str | None
    alpha: float
    alphas: Mapping[str, float]
    by_root: bool

    def scale(self, module: str, rank: int) -> float:
        """What PEFT multiplies the product of a module by."""
        alpha = next((alpha for name, alpha in self.alphas.items() if f".{module}".endswith(f".{name}")), self.alpha)
        return alpha / (rank**0.5 if self.by_root else rank)


UNUSED = (
    "auto_mapping", "peft_version", "base_model_name_or_path", "revision", "inference_mode", "r", "target_modules",
    "exclude_modules", "lora_dropout", "fan_in_fan_out", "modules_to_save", "layers_to_transform", "layers_pattern", "rank_pattern",
    "megatron_core", "loftq_config", "eva_config", "corda_config", "lora_ga_config", "qalora_group_size", "ensure_weight_tying",
)  # fmt: skip
"""Settings of PEFT that the tensors themselves tell, or that only decide how learning begins."""
ABSENT = (
    "use_dora", "lora_bias", "megatron_config", "trainable_token_indices", "alora_invocation_tokens", "use_qalora",
    "layer_replication", "target_parameters", "velora_config", "monteclora_config", "use_bdlora", "arrow_config", "kasa_config",
)  # fmt: skip
"""Settings of PEFT that make another thing of it than W + B A."""


def _read_settings(files: Folder) -> _Settings:
    found = files.read_json(SETTINGS)
    if found is None:
        inner = files.path / "adapter"
        raise ModelFolderError(
            f"there is no {SETTINGS}", where=shown_name(files.path),
            fix=f"name {shown_name(inner)}" if (inner / SETTINGS).is_file() else "name the folder of an adapter",
        )  # fmt: skip
    if files.find(TENSORS) is None:
        pickles = [path.name for path in files.path.iterdir() if path.suffix in PICKLES]
        raise ModelFolderError(
            f"there is no {TENSORS}" + (f", and {listed(pickles, 1)} is a pickle, which can run code" if pickles else ""),
            where=shown_name(files.path), fix=GET_AGAIN,
        )  # fmt: skip
    theirs = TheirSettings(found, files.path / SETTINGS)
    theirs.choice("peft_type", {"LORA": None}, "LORA")
    theirs.choice("bias", {"none": None}, "none")
    for name in ABSENT:
        theirs.must(name, None if found.get(name) is None else False)
    start = found.get("init_lora_weights", True)
    if start not in (True, False, "gaussian", "orthogonal", "eva"):
        theirs.must("init_lora_weights", True)  # the others change the base
    theirs.ignore("init_lora_weights", "task_type", *UNUSED)
    alphas = {
        name.removeprefix("^"): _number(value, files) for name, value in (theirs.mapping("alpha_pattern") or {}).items()
    }
    strange = [name for name in alphas if not all(char.isalnum() or char in "._-" for char in name)]
    if strange:
        raise ModelFolderError(
            f"alpha_pattern has {shown_name(strange[0])}",
            where=files.path / SETTINGS,
            allowed="names of modules, no patterns",
        )
    settings = _Settings(
        found.get("task_type"),
        theirs.number("lora_alpha", 8, high=1e6),
        alphas,
        theirs.flag("use_rslora", False),
    )
    theirs.finish()
    return settings


def _number(value: object, files: Folder) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e6:
        raise ModelFolderError(f"alpha_pattern has {shown_name(value)}", where=files.path / SETTINGS, allowed="numbers")
    return float(value)


def _config(files: Folder, task: object, own: Mapping[str, Any], given: ModelConfig, weights: Weights) -> ModelConfig:
    """The base's configuration with what the adapter puts on top of it."""
    top = own.get("top")
    if isinstance(top, dict):
        head, n_labels, next_sentence = top.get("head"), top.get("n_labels"), top.get("next_sentence")
    else:
        head = next((ours for ours, theirs in HEADS.items() if theirs == task), given.head)
        rows = [
            weights.shape(name)[0]
            for name in weights
            if name.removeprefix(PREFIX) in ("score.weight", "classifier.weight")
        ]
        n_labels = (rows or [given.n_labels])[0] if head == "classification" else 0
        next_sentence = given.next_sentence and head == given.head
    if (
        not isinstance(head, str)
        or type(n_labels) is not int
        or type(next_sentence) is not bool
        or not 0 <= n_labels < 2**20
    ):
        raise ModelFolderError("says what is no head of a model", where=files.path / INFO, fix=GET_AGAIN)
    if (head, n_labels, next_sentence) == (given.head, given.n_labels, given.next_sentence):
        return given
    return with_head(given, head, n_labels=n_labels, next_sentence=next_sentence, where=files.path)


def _beside(base: Transformer, config: ModelConfig) -> tuple[Transformer, set[str]]:
    """A model of its own that shares the base's memory; and the names of the parameters that it has and the base has not."""
    if config == base.config:
        return sharing(base), set()
    moved = transfer(base, config, scheme="zero_output", seed=0)
    borrow(moved.model, base, moved.new)
    return moved.model, set(moved.new)


def _take_new(model: Transformer, pairs: Sequence[Pair], weights: Weights, used: set[str]) -> set[str]:
    """Put the parameters that were trained beside the adapters into the model; their names."""
    found = set()
    for pair in pairs:
        names = [PREFIX + theirs for theirs in pair.theirs]
        if any(name in weights for name in names):
            ours = pair.change.to_ours([weights[name] for name in names])
            for name, tensor in zip(pair.ours, ours, strict=True):
                module, _, last = name.rpartition(".")
                owner = model.get_submodule(module)
                if getattr(owner, last).shape != tensor.shape:
                    raise ValueError(f"{name} is {tuple(getattr(owner, last).shape)}")
                setattr(
                    owner, last, torch.nn.Parameter(tensor.contiguous().to(model.embedding.weight), requires_grad=False)
                )
            used |= set(names)
            found |= set(pair.ours)
    return found


def _take_products(sites: Iterable[Site], settings: _Settings, weights: Weights, used: set[str]) -> dict[str, LowRank]:
    """The products of the layers that have one."""
    found: dict[str, LowRank] = {}
    for site in sites:
        names = f"{PREFIX}{site.theirs}{A}", f"{PREFIX}{site.theirs}{B}"
        if not any(name in weights for name in names):
            continue
        a, b = (weights[name] for name in names)
        if a.ndim != 2 or b.ndim != 2 or len(b) != sum(site.rows):
            raise ValueError(f"{site.theirs} has B of {tuple(b.shape)}")
        used |= set(names)
        scale = settings.scale(site.theirs, len(a))
        for layer, part in zip(site.layers, torch.split(b, list(site.rows)), strict=True):
            if len(site.layers) == 1 or bool(part.any()):
                found[layer] = LowRank(a, part.contiguous(), scale)
    return found


def _check_all_used(weights: Weights, used: set[str], missing: set[str]) -> None:
    left = sorted(set(weights) - used)
    if left:
        raise ModelFolderError(
            f"tensors that have no place in this model: {listed(left)}", where=weights.where, fix=FITTING
        )
    if missing:
        raise ModelFolderError(
            f"nothing is there for {listed(sorted(missing))}, which the model does not have",
            where=weights.where,
            fix=FITTING,
        )
    if not any(name.endswith(A) for name in used):
        raise ModelFolderError("there is no adapter in it", where=weights.where, fix=GET_AGAIN)
