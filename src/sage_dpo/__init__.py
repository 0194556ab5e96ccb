"""SAGE: stability-aware selection of preference pairs for aligning reasoning models."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sage_dpo.training import SAGEConfig, SAGETrainer

__version__ = "0.1.0"
__all__ = ["SAGEConfig", "SAGETrainer", "__version__"]


def __getattr__(name: str) -> Any:
    """Load the trainer on first use, so that `import sage_dpo` costs no torch import."""
    if name in ("SAGEConfig", "SAGETrainer"):
        return getattr(import_module("sage_dpo.training"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
