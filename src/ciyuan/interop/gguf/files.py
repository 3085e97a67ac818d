"""A model in one GGUF file: architecture, tokeniser and weights, in and out."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ciyuan.data.folders import saying_disk_errors
from ciyuan.errors import ModelFolderError, UserError, did_you_mean
from ciyuan.interop.ends import ENDS, WRITING
from ciyuan.interop.gguf.architectures import Architecture, Found, Metadata, architecture_of, settings_of
from ciyuan.interop.gguf.container import ALIGNMENT, F32, U32, GgufFile, Typed, write_container
from ciyuan.interop.gguf.kinds import Kind, holds, named
from ciyuan.interop.gguf.tokens import composes, read_tokenizer, write_tokenizer
from ciyuan.interop.huggingface import Loaded, Unfilled, check_tokenizer
from ciyuan.interop.mapping import Table, shown_name
from ciyuan.model.config import ModelConfig
from ciyuan.model.transformer import Transformer
from ciyuan.text import Tokenizer

DTYPES = {"f32": "F32", "f16": "F16", "bf16": "BF16", "q8_0": "Q8_0", "q4_0": "Q4_0"}
"""What `write_gguf` stores matrices in, by the name to type."""
FILE_TYPES = {"F32": 0, "F16": 1, "BF16": 32, "Q8_0": 7, "Q4_0": 2}
"""general.file_type of a file that is mostly of a kind. Source: llama.h, enum llama_ftype."""
QUANTISATION = 2
"""The version of the block formats."""
COMPOSES = (
    "the tokeniser composes characters first (NFC), and GGUF runtimes do not: text in another form gets other ids there"
)
HEADS = ("token_embd.weight", "output.weight")


def read_gguf(path: str | Path) -> Loaded:
    """The model, its weights widened to float32, and the tokeniser of a GGUF file. Nothing is fetched.

    info: {"source": the file's name, "kinds": how it stores its tensors}, and `ends.ENDS` where several tokens end a text. Raises
    ModelFolderError where the file is damaged, or asks for what our definition does not compute; UserError where the package
    `gguf` is needed and missing.
    """
    with GgufFile(path) as file:
        architecture, keys = settings_of(file.metadata, file.where)
        if "token_embd.weight" not in file or len(file.shape("token_embd.weight")) != 2:
            raise ModelFolderError("there is no token_embd.weight", where=file.where)
        if any(kind.startswith("Q") for kind in file.kinds()):
            keys.must("general.quantization_version", QUANTISATION)
        config = _config(architecture, keys, file)
        read = read_tokenizer(keys, config.vocab_size)
        keys.finish()
        config = ModelConfig.of({**config.model_dump(), **read.ids})
        model = _load(config, architecture.table(config), file)
        info: dict[str, Any] = {"source": file.where.name, "kinds": sorted(file.kinds())}
        if read.ends:
            info[ENDS] = {WRITING: [config.eos_id, *read.ends]}
    return Loaded(model, read.tokenizer, info, origin=f"GGUF, {architecture.name}", notes=read.notes)


def _config(architecture: Architecture, keys: Metadata, file: GgufFile) -> ModelConfig:
    n_rows = file.shape("token_embd.weight")[0]
    head = "output.weight"
    untied = head in file and not (file.shape(head) == file.shape(HEADS[0]) and torch.equal(file[head], file[HEADS[0]]))
    try:
        divisors = file.get("rope_freqs.weight")
        factor = None if divisors is None else float(str(divisors.max().numpy()))
        config = architecture.config(keys, Found.of_names(file.keys(), n_rows, untied=untied, llama3_factor=factor))
    except UserError as error:
        found = error.found if error.where in (None, file.where) else f"{error.where}: {error.found}"
        raise ModelFolderError(found, where=file.where, allowed=error.allowed, fix=error.fix) from None
    if config.n_layers > len(file):
        raise ModelFolderError(
            f"{architecture.name}.block_count is {config.n_layers:,}, and there are {len(file):,} tensors",
            where=file.where,
        )
    return config


def _load(config: ModelConfig, table: Table, file: GgufFile) -> Transformer:
    try:
        with Unfilled():
            model = Transformer(config)
    except RuntimeError as error:  # more numbers in one tensor than torch can count
        raise ModelFolderError(f"its sizes make no model: {shown_name(error)}", where=file.where) from None
    expected = table.to_theirs(model.state_dict())
    table.check(expected, file, file.where)
    for name, tensor in expected.items():
        if file.shape(name) != tuple(tensor.shape):
            raise ModelFolderError(
                f"{shown_name(name)} is of shape {file.shape(name)}, and the metadata implies {tuple(tensor.shape)}",
                where=file.where,
            )
    ours = table.to_ours(list(model.state_dict()), file)
    model.load_state_dict({name: tensor.contiguous() for name, tensor in ours.items()}, assign=True)
    for each in table.generated:
        if each.theirs in file and not _alike(file[each.theirs], each.value(model)):
            raise ModelFolderError(
                f"{each.theirs} is not what follows from the model", where=file.where,
                allowed="our definition computes it, and has no place for another",
            )  # fmt: skip
    return model.eval()


def _alike(found: Tensor, wanted: Tensor) -> bool:
    """But for the rounding of who computed it elsewhere."""
    return found.shape == wanted.shape and torch.allclose(found, wanted, rtol=1e-5)


# --- Out ---------------------------------------------------------------------------------------------------------------


def write_gguf(
    path: str | Path, model: Transformer, tokenizer: Tokenizer, info: Mapping[str, Any], *, dtype: str = "f16"
) -> list[str]:
    """Write a decoder as one file that GGUF runtimes run; the file is whole, or as it was before.

    dtype: one of DTYPES, for the matrices. Vectors and tables of positions stay float32, and so does a matrix whose rows do not
    make whole blocks. info: of ciyuan.json; its "name" is the file's title. Returns what a runtime will do otherwise, in words;
    mostly nothing. Raises ModelFolderError, by name, for a model or a tokeniser that GGUF cannot carry, UserError at an unknown
    dtype, DiskError.
    """
    if dtype not in DTYPES:
        raise UserError(
            f"{shown_name(dtype)} is no dtype of GGUF",
            allowed=f"allowed: {', '.join(DTYPES)}",
            fix=did_you_mean(dtype, DTYPES),
        )
    kind, config, path = named(DTYPES[dtype]), model.config, Path(path)
    architecture = architecture_of(config)
    check_tokenizer(tokenizer, config, where=path)
    tensors = {
        name: (tensor.detach(), _kind(name, tensor, kind))
        for name, tensor in architecture.table(config).to_theirs(model.state_dict()).items()
    }
    for name, (tensor, stored) in tensors.items():
        if not holds(stored, tensor):
            raise ModelFolderError(
                f"{name} has numbers that {stored.name} cannot hold", fix="choose bfloat16 or float32", where=path
            )
    for each in architecture.table(config).generated:
        if each.theirs != HEADS[1]:  # a runtime takes the embedding where there is no head
            tensors[each.theirs] = (each.value(model), named("F32"))
    settings = architecture.settings(config)
    metadata: dict[str, str | bool | list[str] | Typed] = {
        "general.architecture": architecture.name,
        "general.type": "model",
        "general.name": str(info.get("name") or path.stem),
        "general.alignment": Typed(U32, ALIGNMENT),
        "general.file_type": Typed(U32, FILE_TYPES[kind.name]),
        "general.quantization_version": Typed(U32, QUANTISATION),
        **{
            key: value if isinstance(value, str) else Typed(F32 if isinstance(value, float) else U32, value)
            for key, value in settings.items()
        },
        **write_tokenizer(tokenizer, config),
    }
    with saying_disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        number, draft = tempfile.mkstemp(prefix=f"tmp-{path.name}-", dir=path.parent)
        try:
            with os.fdopen(number, "wb") as file:
                write_container(file, metadata, tensors)
                file.flush()
                os.fsync(file.fileno())
            Path(draft).chmod(0o644)
            Path(draft).replace(path)
        except BaseException:
            Path(draft).unlink(missing_ok=True)
            raise
    return [COMPOSES] if composes(tokenizer) else []


def _kind(name: str, tensor: Tensor, wanted: Kind) -> Kind:
    if tensor.ndim < 2 or name == "position_embd.weight" or tensor.shape[-1] % wanted.n_values:
        return named("F32")
    return wanted
