"""What every rollout engine takes and returns, and how problems become prompts.

An engine is anything with `sample`. A recipe names one in `rollouts.engine`; `build_engine` makes it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from sage_dpo import config
from sage_dpo.errors import ConfigError, DataError, RolloutError
from sage_dpo.records import Completion, Messages, Problem

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class RolloutPrompt:
    """One problem as the policy sees it.

    Attributes:
        problem_id: the `Problem.id`; unique within one call of `sample`.
        prompt_ids: token ids, chat template applied, ready for the first completion token.
    """

    problem_id: str
    prompt_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How completions are sampled; fields as in `config.RolloutSettings`.

    Attributes:
        samples: K completions a prompt, >= 1.
        temperature: 0 is greedy.
        top_p, top_k: nucleus and top-k truncation; 1.0 and 0 switch them off.
        max_new_tokens: completions that reach it are cut and have finish reason `length`.
    """

    samples: int = 1
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    max_new_tokens: int = 512

    def __post_init__(self) -> None:
        checks = {
            "samples": (self.samples >= 1, "at least 1"),
            "temperature": (0.0 <= self.temperature < float("inf"), "a finite number >= 0"),
            "top_p": (0.0 < self.top_p <= 1.0, "a number in (0, 1]"),
            "top_k": (self.top_k >= 0, "at least 0 (0 is off)"),
            "max_new_tokens": (self.max_new_tokens >= 1, "at least 1"),
        }
        for name, (is_valid, wanted) in checks.items():
            if not is_valid:
                raise ConfigError(f"{name} is {getattr(self, name)}, expected {wanted}; check rollouts.{name}")

    @property
    def is_greedy(self) -> bool:
        return self.temperature == 0.0

    @property
    def copies(self) -> int:
        """How often one decoded completion stands in the result: greedy samples of a prompt are all equal."""
        return self.samples if self.is_greedy else 1

    @classmethod
    def from_settings(cls, settings: config.RolloutSettings) -> SamplingParams:
        names = ("samples", "temperature", "top_p", "top_k", "max_new_tokens")
        return cls(**{name: getattr(settings, name) for name in names})


Keep = Callable[[list[Completion]], object]
"""Takes all completions of one prompt, in order of samples, as soon as they are there."""


class NothingSampledError(RolloutError):
    """An engine had to leave out every prompt, each for a reason of its own."""


class RolloutEngine(Protocol):
    """Samples completions. Every engine passes tests/contract/test_engines.py."""

    def sample(
        self,
        prompts: Sequence[RolloutPrompt],
        *,
        settings: SamplingParams,
        seed: int,
        policy_version: int = 0,
        progress: bool = False,
        keep: Keep | None = None,
    ) -> list[Completion]:
        """Return `len(prompts) * settings.samples` completions, ordered by prompt, then sample.

        Args:
            prompts: unique problem ids, non-empty prompts.
            settings: number of samples, temperature, truncation and token limit.
            seed: >= 0; the same seed gives the same completions, another seed others.
            policy_version: enters the randomness, so that a refresh draws anew, and is kept in the record.
            progress: show a progress bar.
            keep: called once for each prompt when its completions are there, in any order of the prompts, from the
                caller's thread; what it raises ends the sampling.

        Raises:
            DataError: a problem id occurs twice or a prompt is empty.
            ConfigError: the seed is negative.
        """
        ...


def check_request(prompts: Sequence[RolloutPrompt], seed: int) -> None:
    """Raise on what no engine can serve: duplicate ids, empty prompts, a negative seed."""
    if seed < 0:
        raise ConfigError(f"seed is {seed}, expected an integer >= 0; choose another seed")
    repeated = [name for name, count in Counter(prompt.problem_id for prompt in prompts).items() if count > 1]
    if repeated:
        raise DataError(
            f"{len(repeated)} problem ids occur more than once, first {repeated[0]!r}; they would draw identical "
            "samples; give every problem its own id"
        )
    for prompt in prompts:
        if not prompt.prompt_ids:
            raise DataError(f"problem {prompt.problem_id!r}: the prompt has no tokens, expected at least one")


def build_prompts(
    problems: Sequence[Problem],
    tokenizer: PreTrainedTokenizerBase,
    *,
    prompt_template: str = "{problem}",
    system_prompt: str | None = None,
) -> list[RolloutPrompt]:
    """Tokenise problems with the tokenizer's chat template, generation prompt added.

    A tokenizer without a chat template (a base model) gets the plain text, the system prompt before it and an
    empty line between.

    Args:
        problems: in the order wanted.
        tokenizer: of the policy.
        prompt_template: user message; `{problem}` is replaced, other braces stay as they are (LaTeX).
        system_prompt: system message, or `None`.

    Raises:
        ConfigError: `prompt_template` lacks `{problem}`.
    """
    if "{problem}" not in prompt_template:
        raise ConfigError(f"prompt_template is {prompt_template!r}; it must contain '{{problem}}'")
    if not problems:
        return []
    texts = [prompt_template.replace("{problem}", problem.problem) for problem in problems]
    encoded: Any
    if tokenizer.chat_template is None:
        head = f"{system_prompt}\n\n" if system_prompt else ""
        encoded = tokenizer([head + text for text in texts])
    else:
        system: Messages = [{"role": "system", "content": system_prompt}] if system_prompt else []
        conversations = [[*system, {"role": "user", "content": text}] for text in texts]
        encoded = tokenizer.apply_chat_template(conversations, add_generation_prompt=True, return_dict=True)
    return [RolloutPrompt(problem.id, tuple(ids)) for problem, ids in zip(problems, encoded["input_ids"], strict=True)]
