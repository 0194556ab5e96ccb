"""The arrows of docs/architecture.md, read from the source: who may import whom."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "src" / "sage_dpo"

FOUNDATION = {
    "records",
    "errors",
    "config",
    "storage",
    "rules",
    "costs",
    "run_folder",
    "manifest",
    "locks",
    "data",
    "digests",
    "inputs",
    "arrivals",
    "processes",
}
ALLOWED = {
    "errors": set(),
    "records": {"errors"},
    "config": {"errors"},
    "storage": {"errors"},
    "rules": {"records"},
    "costs": set(),
    "digests": set(),
    "inputs": {"errors"},
    "arrivals": {"errors"},
    "processes": {"arrivals", "digests", "errors", "inputs"},
    "data": {"errors", "storage", "rules"},
    "run_folder": {"storage"},
    "locks": {"errors", "storage"},
    "manifest": {"errors", "storage", "run_folder", "digests", "inputs", "locks"},
    "core": {"errors", "records"},
    "problems": FOUNDATION | {"core"},
    "rollouts": FOUNDATION | {"core"},
    "verification": FOUNDATION | {"core"},
    "pairs": FOUNDATION | {"core"},
    "forward": {"core"},
    "selectors": FOUNDATION | {"core"},
    "selection": FOUNDATION | {"core", "forward", "selectors"},
    "gym": {"errors", "records", "core"},
    "everyday": {"errors", "records"},
    "pretrained": {"errors", "storage", "digests"},
    "evaluation": FOUNDATION | {"core", "rollouts", "verification"},
    "training": FOUNDATION | {"core", "forward", "selection"},
    "report": FOUNDATION | {"core"},
    "pipeline": FOUNDATION | {
        "core", "problems", "rollouts", "verification", "pairs", "selectors", "selection", "gym", "everyday",
        "pretrained", "evaluation", "training", "report",
    },
    "studies": FOUNDATION | {"core", "gym", "forward", "selectors", "selection", "report", "pipeline"},
    "planning": FOUNDATION | {
        "core", "problems", "rollouts", "pairs", "forward", "selectors", "gym", "evaluation", "pipeline",
    },
    "cli": FOUNDATION | {
        "studies", "planning",
        "problems", "rollouts", "verification", "pairs", "gym", "evaluation", "training", "report", "pipeline",
    },
    "__init__": {"training"},
    "__main__": {"cli"},
}  # fmt: skip


def part_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_parts(path: Path) -> set[str]:
    """First-level parts of `sage_dpo` that a file imports; `` is the package itself."""
    parts = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import; write the full name"
            names = [node.module or ""]
            if node.module == "sage_dpo":
                names = [f"sage_dpo.{a.name}" if (PACKAGE / a.name).exists() or (PACKAGE / f"{a.name}.py").exists()
                         else "sage_dpo" for a in node.names]  # fmt: skip
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        parts |= {[*name.split("."), ""][1] for name in names if name.split(".")[0] == "sage_dpo"}
    return parts


FILES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_follow_the_arrows(path):
    part = part_of(path)
    wrong = imported_parts(path) - ALLOWED[part] - {part, ""}  # the package itself holds its version only
    assert not wrong, f"{path.relative_to(PACKAGE)} imports {sorted(wrong)}; {part} may import {sorted(ALLOWED[part])}"


def test_a_wrong_arrow_would_be_seen(tmp_path):
    path = tmp_path / "wrong.py"
    path.write_text("from sage_dpo.pipeline.run import run\nfrom sage_dpo import cli, __version__\n")
    assert imported_parts(path) == {"pipeline", "cli", ""}


@pytest.mark.parametrize(
    "module",
    [
        "sage_dpo",
        "sage_dpo.config",
        "sage_dpo.records",
        "sage_dpo.run_folder",
        "sage_dpo.locks",
        "sage_dpo.manifest",
        "sage_dpo.cli",
        "sage_dpo.verification.worker",
    ],
)
def test_light_modules_import_neither_torch_nor_transformers(module):
    code = f"import sys, {module}; print(sorted({{'torch', 'transformers', 'trl', 'datasets'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True,
                          env={"PYTHONPATH": str(PACKAGE.parent), "PATH": ""})  # fmt: skip
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("path", sorted((PACKAGE / "core").glob("*.py")), ids=lambda path: path.name)
def test_core_is_pure(path):
    """No files, clocks, models or global random state in the formulas."""
    forbidden = {
        "os",
        "io",
        "pathlib",
        "time",
        "datetime",
        "random",
        "transformers",
        "trl",
        "datasets",
        "open",
        "print",
    }
    tree = ast.parse(path.read_text(encoding="utf-8"))
    imported = {a.name.split(".")[0] for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    imported |= {(n.module or "").split(".")[0] for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    called = {n.func.id for n in ast.walk(tree) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)}
    assert not (imported | called) & forbidden
    assert "np.random.seed" not in path.read_text()
    assert "torch.manual_seed" not in path.read_text()
