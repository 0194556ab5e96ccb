"""Faults put into runs on purpose: `python -m tests.faults --json PATH` runs all of them and prints totals.

What they show is promised in docs/reliability.md. pytest runs a small sample (tests/integration/test_faults.py).
"""
