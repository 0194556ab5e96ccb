"""`python -m tests.faults --json PATH`: every fault, one part after the other, and totals."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
import tempfile
import time
from pathlib import Path

PARTS = ("inputs", "answers", "processes", "soak", "kills")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--json", type=Path, help="where the totals go")
    parser.add_argument("--only", default=",".join(PARTS), help=f"of {', '.join(PARTS)}")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    os.environ |= {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
    import sage_dpo.pipeline.run  # noqa: F401  every child has it already

    totals = {}
    for name in chosen.only.split(","):
        started = time.monotonic()
        with tempfile.TemporaryDirectory() as root:
            totals[name] = importlib.import_module(f"tests.faults.{name}").run(Path(root), seed=chosen.seed)
        totals[name]["seconds"] = round(time.monotonic() - started, 1)
        print(json.dumps({name: totals[name]}, indent=2), flush=True)
        if chosen.json:
            chosen.json.write_text(json.dumps(totals, indent=2) + "\n")
    failed = [name for name, total in totals.items() if total["failures"]]
    print(f"failed: {', '.join(failed)}" if failed else "all parts as promised")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
