"""Problems with checkable answers: load and validate, remove duplicates, report overlap with evaluation suites."""

from sage_dpo.problems.deduplicate import Deduplicated, Duplicate, deduplicate, normalize_statement
from sage_dpo.problems.load import ExcludedRow, ProblemSet, load_problems
from sage_dpo.problems.overlap import OverlapRow, overlap_report

__all__ = [
    "Deduplicated",
    "Duplicate",
    "ExcludedRow",
    "OverlapRow",
    "ProblemSet",
    "deduplicate",
    "load_problems",
    "normalize_statement",
    "overlap_report",
]
