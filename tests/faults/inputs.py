"""Bad files and bad numbers: `sage-dpo run` ends with one line that names them, at once, in bounded memory."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from tests.faults.injector import in_child, run_command
from tests.faults.toy import write_recipe

Change = Callable[[dict[str, Any], Path], None]


def _problems(text: str | bytes) -> Change:
    def change(recipe: dict[str, Any], root: Path) -> None:
        path = root / "bad.jsonl"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        recipe["problems"]["path"] = str(path)

    return change


def _fixed(*rows: dict[str, Any]) -> Change:
    def change(recipe: dict[str, Any], root: Path) -> None:
        path = root / "bad.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        recipe["pairs"] = {"kind": "fixed", "path": str(path)}

    return change


def _policy(harm: Callable[[Path], None]) -> Change:
    def change(recipe: dict[str, Any], root: Path) -> None:
        from sage_dpo.pipeline.policies import policy_path

        folder = shutil.copytree(policy_path("gym:S"), root / "policy")
        harm(folder)
        recipe["policy"] = {"path": str(folder)}

    return change


def _truncate(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])


def _fill_with_nan(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = {name: tensor.fill_(float("nan")) for name, tensor in load_file(folder / "model.safetensors").items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


PAIR = {"prompt": "1 + 1 ?", "chosen": "2 .", "rejected": "3 ."}
CASES: dict[str, tuple[Change, str]] = {
    "not JSON": (_problems("{"), "not JSON"),
    "not UTF-8": (_problems(b"\xff\xfe\xfd\n"), "UTF-8"),
    "no rows": (_problems(""), "0 problems"),
    "golds null and NaN": (
        _problems('{"id": 1, "problem": "p", "answer": null}\n{"id": 2, "problem": "q", "answer": NaN}\n'),
        "'empty_answer': 2",
    ),
    "no pair can be used": (_fixed({**PAIR, "chosen": ""}, {**PAIR, "rejected": PAIR["chosen"]}), "excluded"),
    "a success rate of 2": (_fixed({**PAIR, "success_rate": 2}), "success_rate is 2"),
    "a row of 50 MB": (_fixed({**PAIR, "chosen": "2 " * 25_000_000}), "longer than max_length"),
    "weights cut off": (_policy(_truncate), "cannot be loaded"),
    "weights of NaN": (_policy(_fill_with_nan), "NaN"),
    "a name that leaves the folder": (lambda recipe, _: recipe.update(name=".."), "name"),
}


def run(root: Path, *, seed: int = 0) -> dict[str, Any]:
    """Return how many cases ended as promised, and the largest process."""
    failures, peak = [], 0.0
    for name, (change, named) in CASES.items():
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir(parents=True)
        path = write_recipe(root)
        recipe = yaml.safe_load(path.read_text())
        change(recipe, root)
        path.write_text(yaml.safe_dump(recipe))
        command = ["run", str(path), "--output", str(root / "run"), "--quiet"]
        outcome = in_child(lambda command=command: run_command(command, root), root / "log")  # type: ignore[misc]
        errors = [line for line in outcome.printed.splitlines() if line.startswith("error: ")]
        peak = max(peak, outcome.peak_mib)
        if outcome.code != 2 or len(errors) != 1 or named not in errors[0] or "Traceback" in outcome.printed:
            failures.append({"case": name, "code": outcome.code, "printed": outcome.printed[-800:]})
    return {
        "cases": len(CASES),
        "as_promised": len(CASES) - len(failures),
        "peak_mib": round(peak),
        "failures": failures,
    }
