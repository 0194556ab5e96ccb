"""Evaluation: accuracy of a policy on suites of problems, sampled and graded as in training."""

from sage_dpo.evaluation.results import EvaluationResult, GradedCompletion, SuiteResult
from sage_dpo.evaluation.runner import evaluate_policy, evaluate_suite
from sage_dpo.evaluation.suites import BENCHMARKS, Benchmark, load_benchmark

__all__ = [
    "BENCHMARKS",
    "Benchmark",
    "EvaluationResult",
    "GradedCompletion",
    "SuiteResult",
    "evaluate_policy",
    "evaluate_suite",
    "load_benchmark",
]
