"""A run drives one process."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from sage_dpo.errors import ConfigError
from sage_dpo.pipeline import processes
from sage_dpo.pipeline.processes import require_one_process


def test_several_processes_are_refused_with_the_way_to_use_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "PartialState", lambda: SimpleNamespace(num_processes=2))
    with pytest.raises(ConfigError, match=r"drives one process; for several, use SAGETrainer .* `accelerate launch`"):
        require_one_process()
    monkeypatch.setattr(processes, "PartialState", lambda: SimpleNamespace(num_processes=1))
    require_one_process()
