"""2,000 steps of training: memory, open files, threads, files on disk and seconds a step must not grow with them."""

from __future__ import annotations

import os
import resource
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

STEPS, EVERY = 2000, 50
LIMITS = {"resident_mib": 10.0, "open_files": 1.0, "threads": 1.0, "files": 25.0, "step_ms": 10.0}
"""Most growth over 1,000 steps, by a line through the second three quarters; candidates are a file every 500 steps."""


def run(root: Path, *, seed: int = 0, steps: int = STEPS, every: int = EVERY) -> dict[str, Any]:
    """Return the slopes per 1,000 steps."""
    from tests.support.tiny import make_tiny_model, make_tiny_tokenizer
    from tests.support.training import make_arguments, make_preferences
    from transformers import TrainerCallback

    from sage_dpo import SAGETrainer

    rows: list[dict[str, float]] = []

    class Watch(TrainerCallback):
        last = time.perf_counter()

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step % every:
                return
            now = time.perf_counter()
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            rows.append(
                {
                    "step": state.global_step,
                    "resident_mib": pages * resource.getpagesize() / 2**20,
                    "open_files": len(os.listdir("/proc/self/fd")),
                    "threads": threading.active_count(),
                    "files": sum(1 for path in root.rglob("*") if path.is_file()),
                    "step_ms": 1000 * (now - self.last) / every,
                }
            )
            self.last = time.perf_counter()

    arguments = make_arguments(
        root, max_steps=steps, per_device_train_batch_size=2, gradient_accumulation_steps=1, save_steps=steps // 4,
        save_total_limit=2, refresh_steps=steps // 20, learning_rate=1e-5, seed=seed,
        gate_quantile=1.0,  # with a gate few steps would train
    )  # fmt: skip
    policy = root / "policy"  # TRL loads the reference from where the policy was loaded
    make_tiny_model().save_pretrained(policy)
    trainer = SAGETrainer(
        str(policy), args=arguments, train_dataset=make_preferences(), processing_class=make_tiny_tokenizer(),
        callbacks=[Watch()],
    )  # fmt: skip
    trainer.train()
    late = rows[len(rows) // 4 :]
    at = np.array([row["step"] for row in late])
    slopes = {name: 1000 * float(np.polyfit(at, [row[name] for row in late], 1)[0]) for name in LIMITS}
    failures = [f"{name} grows by {slopes[name]:.2f} in 1,000 steps, at most {most}" for name, most in LIMITS.items()
                if slopes[name] > most]  # fmt: skip
    per_1000 = {name: round(value, 3) for name, value in slopes.items()}
    return {"steps": steps, "slopes_per_1000_steps": per_1000, "first": rows[0], "last": rows[-1], "failures": failures}
