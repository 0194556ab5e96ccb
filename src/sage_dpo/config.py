"""The one configuration path: a recipe (YAML) becomes a validated, frozen `RunConfig`.

Imports neither torch nor transformers, so `sage-dpo run --help` and a typing error in a recipe answer at once.
Variants (where problems come from, which suites) are tagged unions on `kind`: a key that makes no sense for the
chosen kind cannot be written. Unknown keys are errors that name the nearest known key.

What this file does not know: the fields of TRL's own trainer arguments. `training.trainer` is handed on to
`sage_dpo.training.SAGEConfig` as it is, and checked there before any work starts.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from sage_dpo.errors import ConfigError

Model = TypeVar("Model", bound=BaseModel)


class Section(BaseModel):
    """A frozen group of settings; an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class SelectorSettings(Section):
    """Which candidate pairs of an optimizer step are trained on. Symbols as in docs/method.md.

    Attributes:
        selector: registered name: `all`, `random`, `lowest_margin`, `sage`, or a user's own.
        keep_ratio: gamma, the fraction of the candidates that is trained on.
        margin: `confidence` m, `implicit` u, or `implicit_normalized`.
        margin_temperature: tau, scale of the confidence and the normalised implicit margin. Interpretation: the paper
            does not state it; per-token log-probabilities of two answers differ by hundredths to tenths of a nat, so
            that at tau = 1 every pair has g = 1/2 and h = 1/4 and the utility ranks by J alone.
        implicit_beta: beta of the implicit margin; `None` is the loss's beta.
        damping: lambda of the SAGE utility, >= 0. At 0 informativeness cancels and the utility is exp(-margin).
        length_normalized: divide log-probabilities (confidence margin) and J by completion length.
        use_gradient_signal, use_curvature, use_informativeness: the paper's ablations (g = 1, h = 0, J = 1 when off).
        label_noise: epsilon, the fraction of pairs assumed to have chosen and rejected swapped, in [0, 0.5). Above 0
            the gradient signal is its expectation under that assumption, so that pairs the policy contradicts most are
            no longer preferred. `sage` only.
        label_confidence: kappa, how much surer the policy is of an answer than its margin says; only with label_noise.
        cut_temperature: T. Above 0 the kept pairs are drawn without replacement, with probability proportional to
            exp(priority / T), for `sage` S^(1/T), instead of the highest; 0 is the hard cut.
        random_share: part of the kept places that is filled at random instead of by rank, in [0, 1).
        boundary_width: pairs with abs(margin) below it are dropped before the cut; 0 switches the filter off.
        cut: keep the top fraction within each `stratum`, or over the whole batch (`global`).
    """

    selector: str = "sage"
    keep_ratio: float = Field(0.5, gt=0.0, le=1.0)
    margin: Literal["confidence", "implicit", "implicit_normalized"] = "confidence"
    margin_temperature: float = Field(10.0, gt=0.0, allow_inf_nan=False)
    implicit_beta: float | None = Field(None, gt=0.0, allow_inf_nan=False)
    damping: float = Field(0.01, ge=0.0, allow_inf_nan=False)
    length_normalized: bool = True
    use_gradient_signal: bool = True
    use_curvature: bool = True
    use_informativeness: bool = True
    label_noise: float = Field(0.0, ge=0.0, lt=0.5)
    label_confidence: float = Field(3.0, ge=1.0, allow_inf_nan=False)
    cut_temperature: float = Field(0.0, ge=0.0, allow_inf_nan=False)
    random_share: float = Field(0.0, ge=0.0, lt=1.0)
    boundary_width: float = Field(0.0, ge=0.0, allow_inf_nan=False)
    cut: Literal["stratum", "global"] = "stratum"

    @model_validator(mode="after")
    def _check(self) -> SelectorSettings:
        if self.selector == "all" and self.keep_ratio != 1.0:
            raise ValueError(f"selector is all with keep_ratio {self.keep_ratio}; set keep_ratio to 1.0")
        if not self.use_curvature and self.damping == 0:
            raise ValueError(
                "damping is 0 with use_curvature off, so the utility g^2 J / (h J + damping) divides by zero; "
                "set damping > 0 or use_curvature to true"
            )
        return self


class PoolSettings(Section):
    """Strata, schedule and refresh of the candidate pool.

    Attributes:
        stratified: draw by stratum; off, the pool is one stratum.
        easy_min, hard_max: success-rate bounds: easy s >= easy_min, hard s < hard_max, else medium.
        schedule_start, schedule_end: weights (easy, medium, hard) at the start and the end; `None` is
            proportional to occupancy.
        schedule_by: position between the two by training `progress` or by measured `competence`.
        competence_start, competence_target: competence at which the schedule begins and ends.
        refresh_steps: refresh the pool every so many optimizer steps; 0 never.
    """

    stratified: bool = True
    easy_min: float = Field(0.7, gt=0.0, le=1.0)
    hard_max: float = Field(0.3, ge=0.0, lt=1.0)
    schedule_start: tuple[float, float, float] | None = None
    schedule_end: tuple[float, float, float] | None = None
    schedule_by: Literal["progress", "competence"] = "progress"
    competence_start: float = Field(0.0, ge=0.0, le=1.0)
    competence_target: float = Field(1.0, ge=0.0, le=1.0)
    refresh_steps: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _check(self) -> PoolSettings:
        if self.hard_max > self.easy_min:
            raise ValueError(f"hard_max is {self.hard_max}, above easy_min {self.easy_min}; lower hard_max")
        if self.competence_start >= self.competence_target:
            raise ValueError(
                f"competence_start is {self.competence_start}, not below competence_target {self.competence_target}"
            )
        for name in ("schedule_start", "schedule_end"):
            weights = getattr(self, name)
            if weights is None:
                continue
            if min(weights) < 0 or abs(sum(weights) - 1.0) > 1e-6:
                raise ValueError(f"{name} is {weights}, sum {sum(weights):g}; expected non-negative weights of sum 1")
        return self


class LoraSettings(Section):
    """Low-rank adapters through PEFT; `None` in the recipe trains every weight."""

    r: int = Field(16, ge=1)
    alpha: int = Field(32, ge=1)
    dropout: float = Field(0.0, ge=0.0, lt=1.0)
    target_modules: list[str] | str = "all-linear"


class PolicySettings(Section):
    """The policy to align.

    Attributes:
        path: `gym:S` or `gym:M` (bundled), a local folder, or a hub id.
        revision: hub revision, pinned for reproducible runs.
        dtype: weights as loaded: `float32`, `bfloat16`, `float16` or `auto`.
        lora: adapter settings, or `None` for full fine-tuning.
        attn_implementation: passed to transformers (`sdpa`, `flash_attention_2`, ...); `None` is its default.
    """

    path: str = "gym:S"
    revision: str | None = None
    dtype: Literal["float32", "bfloat16", "float16", "auto"] = "float32"
    lora: LoraSettings | None = None
    attn_implementation: str | None = None


class GymProblemSettings(Section):
    """Problems generated by the gym."""

    kind: Literal["gym"]
    split: Literal["train", "probe"] = "train"
    count: int = Field(512, ge=1)


class FileProblemSettings(Section):
    """Problems from JSONL, Parquet or a saved `datasets` folder."""

    kind: Literal["file"]
    path: str
    fields: dict[str, str] = Field(default_factory=dict)
    limit: int | None = Field(None, ge=1)


ProblemSettings = Annotated[GymProblemSettings | FileProblemSettings, Field(discriminator="kind")]


class TransformersEngineSettings(Section):
    """Sample in this process with transformers' `generate`."""

    kind: Literal["transformers"] = "transformers"
    batch_size: int = Field(256, ge=1)


class ServerEngineSettings(Section):
    """Sample from an OpenAI-compatible completions endpoint (vLLM, SGLang). Serves a fixed policy."""

    kind: Literal["server"]
    base_url: str
    model: str
    concurrency: int = Field(32, ge=1)
    timeout_s: float = Field(600.0, gt=0.0)
    api_key_env: str = "OPENAI_API_KEY"


EngineSettings = Annotated[TransformersEngineSettings | ServerEngineSettings, Field(discriminator="kind")]


class RolloutSettings(Section):
    """How completions are sampled.

    Attributes:
        samples: K completions a problem.
        temperature: 0 is greedy.
        top_p, top_k: nucleus and top-k truncation; 1.0 and 0 switch them off.
        max_new_tokens: completions that reach it are cut and have finish reason `length`.
        system_prompt: prepended as a system message.
        prompt_template: user message; `{problem}` is replaced.
        problems_per_pool: each pool asks so many of the problems, the next pool the next ones; `None` asks all.
    """

    engine: EngineSettings = TransformersEngineSettings()
    samples: int = Field(8, ge=1)
    temperature: float = Field(1.0, ge=0.0)
    top_p: float = Field(1.0, gt=0.0, le=1.0)
    top_k: int = Field(0, ge=0)
    max_new_tokens: int = Field(512, ge=1)
    system_prompt: str | None = None
    prompt_template: str = "{problem}"
    problems_per_pool: int | None = Field(None, ge=1)

    @model_validator(mode="after")
    def _check(self) -> RolloutSettings:
        if "{problem}" not in self.prompt_template:
            raise ValueError(f"prompt_template is {self.prompt_template!r}; it must contain '{{problem}}'")
        return self


class VerificationSettings(Section):
    """Answer checking in child processes. The soft deadline is in seconds of CPU time, the hard one on the clock."""

    workers: int = Field(2, ge=1)
    soft_timeout_s: float = Field(3.0, gt=0.0)
    hard_timeout_s: float = Field(10.0, gt=0.0)
    memory_limit_mb: int = Field(2048, ge=256)

    @model_validator(mode="after")
    def _check(self) -> VerificationSettings:
        if self.soft_timeout_s >= self.hard_timeout_s:
            raise ValueError(
                f"soft_timeout_s is {self.soft_timeout_s}, not below hard_timeout_s {self.hard_timeout_s}; "
                "raise the latter"
            )
        return self


class OnPolicyPairSettings(Section):
    """Pairs made from the policy's own verified samples.

    Attributes:
        max_pairs_per_problem: bound on correct x wrong combinations of one problem.
        use_reference_solution: for problems with no correct sample, the reference solution serves as chosen.
        keep_truncated_rejected: allow completions cut at `max_new_tokens` as rejected answers.
        flip_fraction: probability with which chosen and rejected of a pair are swapped. For studies of label noise.
    """

    kind: Literal["on_policy"] = "on_policy"
    max_pairs_per_problem: int = Field(4, ge=1)
    use_reference_solution: bool = False
    keep_truncated_rejected: bool = False
    flip_fraction: float = Field(0.0, ge=0.0, le=1.0)


class FixedPairSettings(Section):
    """Pairs from a TRL preference data set (JSONL, Parquet, saved `datasets` folder, or a hub id)."""

    kind: Literal["fixed"]
    path: str
    split: str = "train"
    revision: str | None = None
    limit: int | None = Field(None, ge=1)


PairSettings = Annotated[OnPolicyPairSettings | FixedPairSettings, Field(discriminator="kind")]


class TrainingSettings(Section):
    """One arm's training.

    Attributes:
        steps: optimizer steps.
        pairs_per_step: pairs trained on per step, over all processes, as TRL counts them; they are chosen among
            `1 / keep_ratio` times as many candidates.
        microbatch_size: pairs per forward and backward pass on one device.
        learning_rate: peak learning rate.
        beta: DPO's beta.
        max_length: longest prompt + completion in tokens; longer pairs are excluded and counted, never cut.
        score_token_budget: padded tokens per forward-only scoring batch.
        score_max_age: optimizer steps for which a completion's score is used again; 0 scores anew at every step.
        save_steps: checkpoint interval; 0 saves at the end only.
        probe_steps: measure greedy accuracy on the probe problems every so many steps; 0 never.
        trainer: any further field of TRL's `DPOConfig` / transformers' `TrainingArguments`, as it is.
    """

    steps: int = Field(60, ge=1)
    pairs_per_step: int = Field(32, ge=1)
    microbatch_size: int = Field(32, ge=1)
    learning_rate: float = Field(1e-6, gt=0.0)
    beta: float = Field(0.1, gt=0.0)
    max_length: int | None = Field(4096, ge=2)
    score_token_budget: int = Field(16384, ge=64)
    score_max_age: int = Field(0, ge=0)
    save_steps: int = Field(0, ge=0)
    probe_steps: int = Field(0, ge=0)
    trainer: dict[str, Any] = Field(default_factory=dict)


class GymSuiteSettings(Section):
    """The gym's held-out suites."""

    kind: Literal["gym"]
    names: list[str] | Literal["all"] = "all"


class BenchmarkSuiteSettings(Section):
    """GSM8K, MATH500, Minerva, Gaokao2023en, OlympiadBench, CollegeMath, AMC23, AIME24.

    `data` is a local folder of `<suite>.jsonl` (id, problem, answer). Without it, suites whose record pins a hub
    revision (`evaluation/suites.py`: GSM8K and MATH500) come from there; for the others the error names the source.
    """

    kind: Literal["benchmarks"]
    names: list[str] | Literal["all"] = "all"
    data: str | None = None


SuiteSettings = Annotated[GymSuiteSettings | BenchmarkSuiteSettings, Field(discriminator="kind")]


class EvaluationSettings(Section):
    """Which suites are run at the end, and how.

    Attributes:
        suites: where they come from.
        max_new_tokens: completion token limit.
        at_steps: optimizer steps after which the suites are run as well, on the way.
        bootstrap_resamples: of the intervals over problems.
    """

    suites: SuiteSettings = GymSuiteSettings(kind="gym")
    max_new_tokens: int = Field(512, ge=1)
    at_steps: list[Annotated[int, Field(ge=1)]] = Field(default_factory=list)
    bootstrap_resamples: int = Field(2000, ge=100)


class ArmSettings(Section):
    """One arm of a comparison: what differs from the recipe's common sections.

    `train: false` evaluates the untouched policy. The other keys are partial sections merged over the recipe's.
    """

    train: bool = True
    selection: dict[str, Any] = Field(default_factory=dict)
    pool: dict[str, Any] = Field(default_factory=dict)
    training: dict[str, Any] = Field(default_factory=dict)


class RunConfig(Section):
    """A whole recipe, validated."""

    name: str = Field(min_length=1, pattern=r"^[\w.-]+$")
    seed: int = Field(0, ge=0)
    output_dir: str = "runs"
    policy: PolicySettings = PolicySettings()
    problems: ProblemSettings | None = None
    probe: ProblemSettings | None = None
    rollouts: RolloutSettings = RolloutSettings()
    verification: VerificationSettings = VerificationSettings()
    pairs: PairSettings = OnPolicyPairSettings()
    pool: PoolSettings = PoolSettings()
    selection: SelectorSettings = SelectorSettings()
    training: TrainingSettings = TrainingSettings()
    evaluation: EvaluationSettings | None = EvaluationSettings()
    arms: dict[Annotated[str, Field(pattern=r"^\w[\w.@-]*$")], ArmSettings] = Field(
        default_factory=lambda: {"sage": ArmSettings()}, min_length=1
    )

    @model_validator(mode="after")
    def _check(self) -> RunConfig:
        if self.problems is None and isinstance(self.pairs, OnPolicyPairSettings):
            raise ValueError("pairs.kind is on_policy, which samples from problems; add a `problems` section")
        for arm in self.arms:
            self.for_arm(arm)._check_sections(self.arms[arm].train)
        return self

    def _check_sections(self, is_trained: bool) -> None:
        """Raise on sections that contradict each other; called on each arm's own configuration."""
        if self.training.probe_steps and self.probe is None:
            raise ValueError("training.probe_steps is set but there is no `probe` section; add one or set it to 0")
        if isinstance(self.rollouts.engine, ServerEngineSettings) and self.pool.refresh_steps:
            raise ValueError(
                "rollouts.engine.kind is server, which serves a fixed policy, but pool.refresh_steps is "
                f"{self.pool.refresh_steps}; set refresh_steps to 0 or use the transformers engine"
            )
        if is_trained and self.policy.dtype in ("bfloat16", "float16") and self.policy.lora is None:
            raise ValueError(
                f"policy.dtype is {self.policy.dtype} without lora: small updates of half-precision weights round to "
                "nothing; set dtype to float32 (a GPU still computes in bf16), or add lora"
            )

    def for_arm(self, arm: str) -> RunConfig:
        """Return the configuration of one arm: its partial sections merged over the common ones.

        Raises:
            ConfigError: unknown arm, or an override that is not valid in its section.
        """
        if arm not in self.arms:
            raise ConfigError(f"arm {arm!r} is not in this recipe; known arms: {', '.join(self.arms)}")
        settings = self.arms[arm]
        merged = {}
        for section in ("selection", "pool", "training"):
            current: BaseModel = getattr(self, section)
            merged[section] = validate(
                type(current), {**current.model_dump(), **getattr(settings, section)}, where=f"arms.{arm}.{section}"
            )
        return self.model_copy(update=merged)


def validate(model: type[Model], values: Mapping[str, Any], *, where: str = "") -> Model:
    """Validate `values` against a section.

    Raises:
        ConfigError: one line per problem: the key's path, what was got, what is expected, the nearest known key.
    """
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        raise ConfigError(_explain(model, error, where)) from None


_REPLACED = {
    "candidates_per_step": "set pairs_per_step, the pairs trained on: what was candidates_per_step x keep_ratio",
}
"""Keys of earlier versions that are not a misspelling of what replaced them."""


def _explain(model: type[BaseModel], error: ValidationError, where: str) -> str:
    lines = []
    for item in error.errors():
        path = ".".join([*([where] if where else []), *(str(part) for part in item["loc"])])
        if item["type"] == "extra_forbidden" and item["loc"][-1] in _REPLACED:
            lines.append(f"unknown key {path!r}; {_REPLACED[str(item['loc'][-1])]}")
        elif item["type"] == "extra_forbidden":
            known = sorted(_known_keys(model, item["loc"]))
            near = difflib.get_close_matches(str(item["loc"][-1]), known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(known)}"
            lines.append(f"unknown key {path!r}; {hint}")
        else:
            message = item["msg"].removeprefix("Value error, ")
            got = "" if isinstance(item["input"], dict) else f" (got {item['input']!r})"
            lines.append(f"{path or 'recipe'}: {message}{got}")
    return "\n".join(lines)


def _known_keys(model: type[BaseModel], location: tuple[int | str, ...]) -> set[str]:
    """Keys allowed beside the unknown one, found by walking the annotations along its path."""
    candidates = [model]
    for part in location[:-1]:
        fields = [candidate.model_fields[str(part)] for candidate in candidates if part in candidate.model_fields]
        if fields:
            candidates = [nested for field in fields for nested in _models_in(field.annotation)]
        elif any("kind" in candidate.model_fields for candidate in candidates):  # the tag of a union: that variant
            tagged = [c for c in candidates if "kind" in c.model_fields]
            candidates = [c for c in tagged if part in get_args(c.model_fields["kind"].annotation)]
    return {name for candidate in candidates for name in candidate.model_fields}


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in getattr(annotation, "__args__", ()) for model in _models_in(argument)]


class _Loader(yaml.SafeLoader):
    """YAML 1.1 reads 5e-5 as text; here it is a number, as in YAML 1.2."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d[\d_]*)(\.[\d_]*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def parse_yaml(text: str) -> Any:
    """Return the value of a YAML text.

    Raises:
        ConfigError: not valid YAML.
    """
    try:
        return yaml.load(text, Loader=_Loader)  # a SafeLoader
    except yaml.YAMLError as error:
        raise ConfigError(f"not valid YAML: {error}") from None


def load_config(path: str | Path, overrides: Mapping[str, Any] | None = None) -> RunConfig:
    """Read a recipe.

    Args:
        path: YAML file.
        overrides: dotted keys to values, applied before validation (`{"training.steps": 10}`).

    Raises:
        ConfigError: missing file, invalid YAML (with line), unknown key, invalid value.
    """
    path = Path(path)
    if not path.is_file():
        raise ConfigError(f"recipe {str(path)!r} does not exist; give the path of a YAML file")
    try:
        values = parse_yaml(path.read_text(encoding="utf-8"))
    except ConfigError as error:
        raise ConfigError(f"{path} is {error}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path} holds {type(values).__name__}, expected a mapping of sections")
    for key, value in (overrides or {}).items():
        _set_dotted(values, key, value)
    try:
        return validate(RunConfig, values)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def _set_dotted(values: dict[str, Any], key: str, value: Any) -> None:
    *parents, last = key.split(".")
    for parent in parents:
        nested = values.setdefault(parent, {})
        if not isinstance(nested, dict):
            raise ConfigError(f"override {key!r}: {parent!r} is not a section")
        values = nested
    values[last] = value


def dump_config(config: RunConfig) -> str:
    """Return the resolved recipe as YAML; `load_config` of it gives an equal configuration."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
