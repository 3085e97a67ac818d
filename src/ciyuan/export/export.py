"""One export: written beside its place, proven there, and given its name only then."""

from __future__ import annotations

import copy
import hashlib
import importlib.metadata
import importlib.util
import json
import platform
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import ciyuan
from ciyuan.data.folders import new_folder, saying_disk_errors
from ciyuan.errors import ExportError
from ciyuan.export.formats import Format, format_named
from ciyuan.export.probe import build_probe, our_outputs, request_of
from ciyuan.export.proof import RULES, Proof, Tolerance, prove
from ciyuan.interop.folder import fingerprint
from ciyuan.interop.huggingface import Loaded, family_of, load_model_folder
from ciyuan.interop.runners.process import MissingRuntime, ScriptError, run_script
from ciyuan.interop.writers.written import DTYPES, Written
from ciyuan.model.transformer import Transformer

REPORT = "export_report.json"
LARGEST_CARD = 1 << 20
"""Bytes of a README.md that are taken over."""


@dataclass(frozen=True)
class Exported:
    """folder: where it is. report: what export_report.json says."""

    folder: Path
    report: Mapping[str, Any]


def export(
    source: str | Path, out: str | Path, *, format: str, dtype: str = "float32", quantize: str | None = None,  # noqa: A002
    unproven: bool = False,
) -> Exported:  # fmt: skip
    """Write the model in `source` to a new folder `out`, and prove it in the format's own runtime.

    unproven: go without the proof where the runtime is not installed; the report says so. Raises ExportError where the format
    cannot carry the model, its runtime is missing, or it answers otherwise than the model: then nothing stands at `out`, and
    OUT.refused.json says what differed.
    """
    out = Path(out)
    chosen, tolerance = format_named(format, dtype=dtype, quantisation=quantize)
    _check_place(out, format)
    can_prove = importlib.util.find_spec(chosen.runtime) is not None
    if not can_prove and not unproven:
        raise _missing(chosen)
    loaded = load_model_folder(source)
    rounded = Loaded(_rounded(loaded.model, dtype), loaded.tokenizer, loaded.info)
    card = _card(Path(source))
    with new_folder(out, is_whole=lambda folder: False) as draft:
        try:
            written = chosen.write(draft, rounded, dtype, quantize, card)
        except ImportError as error:
            raise ExportError(
                f"{format} cannot be written: {error}", fix=f"pip install 'ciyuan[{chosen.extra}]'"
            ) from None
        report: dict[str, Any] = {
            "verdict": "not proven",
            "format": format, "dtype": dtype, "quantize": quantize,
            "model": {
                "folder": str(source), "class": family_of(loaded.model.config).class_of(loaded.model.config),
                "task": loaded.info.get("task"), "weights": fingerprint(loaded.model.state_dict()),
                "tokenizer": loaded.tokenizer.fingerprint,
            },
            "left_out": list(written.left_out), "advice": list(written.advice),
            "versions": _versions(chosen), "rules": RULES, "tolerance": asdict(tolerance),
        }  # fmt: skip
        if can_prove:
            if written.rounded_tables:
                _round(rounded.model.named_buffers(), dtype)
            proof, more = _proven(chosen, rounded, loaded, draft, written, tolerance, dtype=dtype, unproven=unproven)
            report |= more
            if proof is not None and not proof.holds:
                _refuse(out, report, proof)
        report["files"] = _files(draft)
        (draft / REPORT).write_text(_json(report), encoding="utf-8")
        draft.chmod(0o755)
    _refusal(out).unlink(missing_ok=True)  # of an earlier attempt
    return Exported(out, report)


def _proven(
    chosen: Format,
    rounded: Loaded,
    loaded: Loaded,
    draft: Path,
    written: Written,
    tolerance: Tolerance,
    *,
    dtype: str,
    unproven: bool,
) -> tuple[Proof | None, dict[str, Any]]:
    """The proof and what the report gains by it; None where the runtime cannot be started, and that is allowed."""
    model = rounded.model
    probe = build_probe(model, rounded.tokenizer)
    request = request_of(probe, model.config, folder=str(draft.resolve()), outputs=written.outputs)
    request |= written.options
    try:
        answers = run_script(chosen.script, request)
    except MissingRuntime as error:
        if not unproven:
            raise _missing(chosen, str(error)) from None
        return None, {}
    except ScriptError as error:
        proof = Proof([f"{chosen.runtime} cannot run it: {error}"])
        return proof, {"verdict": "differs", "differences": proof.differences}
    proof = prove(model, rounded.tokenizer, probe, answers, outputs=written.outputs, tolerance=tolerance)
    return proof, {
        "verdict": "proven" if proof.holds else "differs",
        "differences": proof.differences,
        "compared": proof.compared,
        "rounding": {} if dtype == "float32" else _rounding(loaded.model, model, loaded, written),
        "probe": {"texts": list(probe.texts), "read": list(map(len, probe.reads)), "new tokens": probe.new_tokens},
        "runtime": answers.values["versions"],
    }


def _rounded(model: Transformer, dtype: str) -> Transformer:
    """The model with its weights as they are written, held in float32. Raises ExportError where one is too large for the dtype."""
    model = copy.deepcopy(model).float().eval()
    _round(model.named_parameters(), dtype)
    return model


@torch.no_grad()
def _round(tensors: Iterable[tuple[str, Tensor]], dtype: str) -> None:
    for name, tensor in tensors:
        tensor.copy_(tensor.to(DTYPES[dtype]).float())
        if not bool(tensor.isfinite().all()):
            raise ExportError(
                f"{name} has numbers that {dtype} cannot hold", where="--dtype", allowed="allowed: float32, bfloat16"
            )


def _rounding(before: Transformer, after: Transformer, loaded: Loaded, written: Written) -> dict[str, Any]:
    """How far the rounding of the weights alone moved the answers: for people to judge, not a part of the proof."""
    probe = build_probe(before, loaded.tokenizer)
    names = [name for name in written.outputs if name != "written_logits"]
    old, new = (our_outputs(model, probe, names) for model in (before, after))
    found = {}
    for name in names:
        spread = max(float(torch.cat([torch.from_numpy(each).flatten() for each in old[name]]).std()), 1e-6)
        largest = max(float(abs(a - b).max()) for a, b in zip(old[name], new[name], strict=True))
        found[name] = {"largest difference": largest, "relative": largest / spread}
    return found


def _refuse(out: Path, report: Mapping[str, Any], proof: Proof) -> None:
    beside = _refusal(out)
    beside.write_text(_json(report), encoding="utf-8")
    more = len(proof.differences) - 1
    raise ExportError(
        f"the export is refused: {proof.differences[0]}", where=out,
        allowed=f"{more} further differences; " * (more > 0) + f"nothing was left there, and all of it is in {beside}",
        fix="please report it with that file, unless the model's folder was changed by hand",
    )  # fmt: skip


def _refusal(out: Path) -> Path:
    return out.with_name(f"{out.name}.refused.json")


def _missing(chosen: Format, reason: str | None = None) -> ExportError:
    return ExportError(
        f"the export could not be proven: {reason or f'{chosen.runtime} is not installed'}",
        fix=f"pip install 'ciyuan[{chosen.extra}]'; or --unproven, and the report will say that nobody looked",
        allowed="an export is reopened in the runtime it is for, and compared",
    )


def _check_place(out: Path, format: str) -> None:  # noqa: A002
    if out.suffix == ".gguf":
        raise ExportError(
            "--out names a folder, and this looks like a file",
            where=out,
            fix=f"--out {out.with_suffix('')} writes model.gguf there",
        )
    if out.is_symlink() or (out.exists() and not (out.is_dir() and not any(out.iterdir()))):
        raise ExportError("is there already", where=out, fix="name a new folder with --out")
    with saying_disk_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)


def _card(source: Path) -> str:
    path = source / "README.md"
    if not path.is_file() or path.stat().st_size > LARGEST_CARD:
        return ""
    return path.read_text(encoding="utf-8", errors="replace")


def _versions(chosen: Format) -> dict[str, str]:
    """Of what wrote it; the runtime names its own."""
    found = {"ciyuan": ciyuan.__version__, "python": platform.python_version(), "torch": torch.__version__}
    for name in chosen.tools:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:  # what the proof alone would need
            continue
    return found


def _files(folder: Path) -> dict[str, Any]:
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            found[path.relative_to(folder).as_posix()] = {"bytes": path.stat().st_size, "sha256": digest}
    return found


def _json(report: Mapping[str, Any]) -> str:
    return json.dumps(report, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
