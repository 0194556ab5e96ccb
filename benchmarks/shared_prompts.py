"""Prompts run once for their completions, against running each completion with its own prompt.

Pairs with prompts of three sizes and completions of log-normal lengths (mean 300, sigma 0.9, up to 3,072), two of a
prompt, as the two sides of a pair, and eight of a prompt, as the rollouts of a problem. The peers are our own scorer and
training step with sharing switched off, and TRL's reference pass at the better of one and eight pairs a batch. All must
give the same numbers before anything is timed.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from datasets import Dataset

from benchmarks import harness
from benchmarks.harness import Claim, cost_claim, interleave, rate_claim
from benchmarks.scoring import Contest
from benchmarks.training_step import make_sage, step_seconds
from benchmarks.workload import draw_lengths, make_policy
from sage_dpo.scoring import score_completions, shared_prompts

VOCABULARY = 2_000
PROMPTS = (75, 300, 1_500)  # mean tokens
PAIRS = 16
