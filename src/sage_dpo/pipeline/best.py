"""The best probe of an arm's training: which one it was, its policy, and for how long there has been no better one."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from sage_dpo.costs import Costs
from sage_dpo.run_folder import ArmFolder


class BestProbe:
    """The probe of the highest accuracy, of equals the first; the untuned policy's is none of them.

    Args:
        folder: of the arm, which keeps the policies.
        patience: probes without a better one after which training is to stop; 0 never.
        keeps_policy: save the policy of each probe that is better than those before.
        state: of the checkpoint from which training goes on, or `None`.
        is_main: whether this is the process that deletes; every one takes part in saving.

    Attributes:
        found: `{"step", "probe_accuracy", "costs"}` of the best, `None` before the first probe; costs without those of
            the first pool.
        last_step: optimizer steps before the last probe.
    """

    def __init__(
        self,
        folder: ArmFolder,
        *,
        patience: int,
        keeps_policy: bool,
        state: Mapping[str, Any] | None = None,
        is_main: bool = True,
    ) -> None:
        self._folder, self._patience, self._keeps_policy, self._is_main = folder, patience, keeps_policy, is_main
        state = state or {"found": None, "last_step": 0, "waited": 0}
        self.found: dict[str, Any] | None = state["found"]
        self.last_step: int = state["last_step"]
        self._waited: int = state["waited"]
        self._resumed_from = {self.found["step"]} if self.found else set()

    def observe(self, step: int, accuracy: float, costs: Costs, save: Callable[[Path], object] | None) -> None:
        """Take note of a probe.

        Args:
            step: optimizer steps before it.
            accuracy: a fraction.
            costs: of the policy so far.
            save: writes the policy to a folder; `None` after the last step, whose policy is kept anyway.
        """
        self.last_step = step
        if self.found is not None and accuracy <= self.found["probe_accuracy"]:
            self._waited += 1
            return
        self.found = {"step": step, "probe_accuracy": accuracy, "costs": costs.as_dict()}
        self._waited = 0
        if self._keeps_policy and save is not None:
            save(self._folder.best_policy(step))
            self._keep_policies({step, *self._resumed_from})

    @property
    def stop_reason(self) -> str | None:
        """Why training is to stop, if it is."""
        if self.found is None or not self._patience or self._waited < self._patience:
            return None
        probes = "1 probe" if self._waited == 1 else f"{self._waited} probes"
        return f"no better probe accuracy since step {self.found['step']} ({probes})"

    def state_dict(self) -> dict[str, Any]:
        return {"found": self.found, "last_step": self.last_step, "waited": self._waited}

    def on_checkpoint(self, others: Collection[int]) -> None:
        """A checkpoint with this state is complete: an attempt goes on from it or from one of the others.

        Args:
            others: steps of the best probes that the other checkpoints know.
        """
        self._resumed_from = {*others, *({self.found["step"]} if self.found else ())}
        self._keep_policies(self._resumed_from)

    def _keep_policies(self, steps: Collection[int]) -> None:
        if self._is_main:
            keep_policies(self._folder, steps)


def keep_policies(folder: ArmFolder, steps: Collection[int]) -> None:
    """Delete the policies of all other probes."""
    for step, path in folder.best_policies().items():
        if step not in steps:
            shutil.rmtree(path)
