"""What a recipe will take before it is run, and what a run took: tokens, operations, memory, hours."""

from __future__ import annotations

from sage_dpo.planning.given import Given
from sage_dpo.planning.hardware import find_machine
from sage_dpo.planning.measured import read_measured
from sage_dpo.planning.plan import Plan, plan_recipe

__all__ = ["Given", "Plan", "find_machine", "plan_recipe", "read_measured"]
