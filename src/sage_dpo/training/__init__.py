"""The trainer: TRL's DPO with selection of pairs."""

from sage_dpo.training.config import SAGEConfig
from sage_dpo.training.trainer import SAGETrainer

__all__ = ["SAGEConfig", "SAGETrainer"]
