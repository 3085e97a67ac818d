"""The source gate: nothing in the package can run code that came in a file, a model or a request.

No pickle, no `torch.load`, no unsafe YAML, no eval, exec or shell, no unpacking of archives, no address open to everyone.
"""

from __future__ import annotations

import ast
import contextlib
from collections.abc import Iterator
from pathlib import Path

from torture.harness import Tally

ROOT = Path(__file__).resolve().parent.parent
FORBIDDEN_MODULES = {"pickle", "cPickle", "dill", "joblib", "shelve", "marshal", "cloudpickle"}
FORBIDDEN_NAMES = {"eval", "exec", "__import__", "compile"}
FORBIDDEN_CALLS = {"torch.load", "torch.save", "torch.jit.load", "yaml.load", "yaml.unsafe_load", "yaml.full_load",
                   "os.system", "os.popen", "numpy.fromregex"}  # fmt: skip
PLANTED = (
    "import pickle", "from pickle import loads", "torch.load(x)", "torch.load(x, weights_only=True)", "yaml.load(x)", "eval(x)",
    "exec(x)", "run(x, shell=True)", "run(x, shell=y)", "tar.extractall()", "host = '0.0.0.0'", "np.load(x)",
    "AutoModel.from_pretrained(x, trust_remote_code=True)", "os.system(x)",
)  # fmt: skip
"""Lines that the gate must not let pass."""
HARMLESS = "model.eval(); re.compile(x); yaml.safe_load(x); run(x, shell=False); np.load(x, allow_pickle=False)"


def sources() -> dict[str, str]:
    """Every file of the package."""
    return {
        str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in sorted((ROOT / "src").rglob("*.py"))
    }


def run(tally: Tally) -> None:
    found = _with_planted(sources()) if tally.mutant is not None else sources()
    for case, (name, source) in zip(tally.cases(len(found)), found.items()):
        for danger in dangers(source):
            tally.fail(case, f"{name}:{danger}")


def dangers(source: str) -> list[str]:
    """What could run code found in a file, as `line: what`."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            found += [f"{node.lineno}: import {name}" for name in names if name.partition(".")[0] in FORBIDDEN_MODULES]
        if isinstance(node, ast.Constant) and node.value == "0.0.0.0":  # noqa: S104 (what is looked for)
            found.append(f"{node.lineno}: 0.0.0.0")
        if not isinstance(node, ast.Call):
            continue
        name = dotted(node.func)
        if name in FORBIDDEN_NAMES or name in FORBIDDEN_CALLS or name.endswith((".extractall", ".extract")):
            found.append(f"{node.lineno}: {name}")
        for keyword in node.keywords:
            value = keyword.value.value if isinstance(keyword.value, ast.Constant) else ...
            if keyword.arg in ("shell", "trust_remote_code", "allow_pickle") and value is not False:
                found.append(f"{node.lineno}: {keyword.arg}")
        if name.endswith(("np.load", "numpy.load")) and not any(k.arg == "allow_pickle" for k in node.keywords):
            found.append(f"{node.lineno}: {name} without allow_pickle=False")
    return found


def dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def _with_planted(found: dict[str, str]) -> dict[str, str]:
    """One file with all that is forbidden, provided each line alone is noticed and what is harmless is not."""
    if dangers(HARMLESS) or not all(dangers(line) for line in PLANTED):
        return {}
    return {"planted.py": "\n".join(PLANTED), **found}


@contextlib.contextmanager
def _planted() -> Iterator[None]:
    yield


MUTANTS = {"planted lines": _planted}
