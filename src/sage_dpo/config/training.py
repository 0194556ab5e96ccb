"""The policy, its training, and the suites it is measured on."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from sage_dpo.config.sampling import ProblemFileSettings
from sage_dpo.config.section import Section


class LoraSettings(Section):
    """Low-rank adapters through PEFT."""

    r: int = Field(16, ge=1, description="Rank of the adapters.")
    alpha: int = Field(32, ge=1, description="The update is scaled by alpha / r.")
    dropout: float = Field(0.0, ge=0.0, lt=1.0, description="Dropout on the adapters' input.")
    target_modules: list[str] | str = Field("all-linear", description="Names of the layers that get adapters.")


class PolicySettings(Section):
    """The policy to align."""

    path: str = Field(
        "gym:S",
        description="`gym:S`, `gym:M` or `gym:S-hard` (bundled), `smollm2` (of the extra so named), a folder, "
        "or a hub id.",
    )
    revision: str | None = Field(None, description="Hub revision, pinned for reproducible runs.")
    dtype: Literal["float32", "bfloat16", "float16", "auto"] = Field(
        "float32", description="Type of the weights as loaded."
    )
    lora: LoraSettings | None = Field(None, description="Adapters; none trains every weight.")
    attn_implementation: str | None = Field(
        None, description="Passed to transformers (`sdpa`, `flash_attention_2`, ...); none is its default."
    )


class ScoringSettings(Section):
    """How candidates are scored."""

    score_token_budget: int = Field(16384, ge=1, description="Padded tokens per forward-only batch and device.")
    score_max_age: int = Field(
        0,
        ge=0,
        description="Optimizer steps for which a completion's score is used again; 0 scores anew at every step.",
    )


class TrainingSettings(ScoringSettings):
    """One arm's training."""

    steps: int = Field(60, ge=1, description="Optimizer steps.")
    pairs_per_step: int = Field(
        32,
        ge=1,
        description="Pairs trained on per step, over all processes, as TRL counts them; they are chosen among "
        "`1 / keep_ratio` times as many candidates.",
    )
    microbatch_size: int = Field(32, ge=1, description="Pairs per forward and backward pass on one device, at most.")
    learning_rate: float = Field(1e-6, gt=0.0, allow_inf_nan=False, description="Peak learning rate.")
    beta: float = Field(0.1, gt=0.0, allow_inf_nan=False, description="DPO's beta.")
    max_length: int | None = Field(
        4096,
        ge=2,
        description="Longest prompt + completion in tokens; longer pairs are excluded and counted, never cut.",
    )
    save_steps: int = Field(
        0,
        ge=0,
        description="Checkpoint every so many steps; 0 saves at the end only: an interruption costs this arm.",
    )
    probe_steps: int = Field(
        0, ge=0, description="Measure greedy accuracy on the probe problems every so many steps; 0 never."
    )
    patience: int = Field(0, ge=0, description="Probes without a better accuracy after which training stops; 0 never.")
    trainer: dict[str, Any] = Field(
        default_factory=dict,
        description="Any further field of TRL's `DPOConfig` / transformers' `TrainingArguments`, as it is.",
    )


class GymSuiteSettings(Section):
    """The gym's held-out suites."""

    kind: Literal["gym"] = Field(description="Which of the kinds.")
    track: Literal["standard", "hard"] = Field("standard", description="Those of which track.")
    names: list[str] | Literal["all"] = Field("all", description="Which suites.")


class EverydaySuiteSettings(Section):
    """Held-out everyday questions: a suite for each family, and `harder`, all of them at a level never trained on."""

    kind: Literal["everyday"] = Field(description="Which of the kinds.")
    names: list[str] | Literal["all"] = Field("all", description="Which suites.")


class BenchmarkSuiteSettings(Section):
    """GSM8K, MATH500, Minerva, Gaokao2023en, OlympiadBench, CollegeMath, AMC23, AIME24."""

    kind: Literal["benchmarks"] = Field(description="Which of the kinds.")
    names: list[str] | Literal["all"] = Field("all", description="Which suites.")
    data: str | None = Field(
        None,
        description="Local folder of `<suite>.jsonl` (id, problem, answer), or of the files as their repositories "
        "publish them ([data](data.md)). Without it, suites whose record pins a hub revision (GSM8K and MATH500) come "
        "from there; for the others the error names the source.",
    )


class FileSuiteSettings(Section):
    """Suites from any files of problems, answered greedily."""

    kind: Literal["files"] = Field(description="Which of the kinds.")
    files: dict[Annotated[str, Field(pattern=r"^\w[\w.-]*$")], ProblemFileSettings] = Field(
        min_length=1,
        description="Each suite's file, by the suite's name, which is not a benchmark's; as `problems.files`.",
    )


SuiteSettings = Annotated[
    GymSuiteSettings | EverydaySuiteSettings | BenchmarkSuiteSettings | FileSuiteSettings, Field(discriminator="kind")
]


class EvaluationSettings(Section):
    """Which suites are run at the end, and how."""

    suites: SuiteSettings = Field(GymSuiteSettings(kind="gym"), description="Where they come from.")
    max_new_tokens: int = Field(512, ge=1, description="Completion token limit.")
    at_steps: list[Annotated[int, Field(ge=1)]] = Field(
        default_factory=list, description="Optimizer steps after which the suites are run as well, on the way."
    )
    at_best: bool = Field(False, description="Also run the suites on the policy of the best probe.")
    bootstrap_resamples: int = Field(2000, ge=100, description="Resamples of the intervals over problems.")
