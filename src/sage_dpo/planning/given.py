"""What the user says instead of having it measured."""

from __future__ import annotations

from dataclasses import dataclass

from sage_dpo.errors import ConfigError


@dataclass(frozen=True)
class Given:
    """Lengths, numbers and the model's shape as the user gives them; `None` where nothing was said.

    Attributes:
        prompt_tokens, completion_tokens: mean lengths, chat template and end of sequence included.
        problems: number of training problems.
        parameters, layers, hidden, kv_width, vocabulary, tied: the model's shape, see `planning.shape.ModelShape`.

    Raises:
        ConfigError: a length or the number of problems is not positive.
    """

    prompt_tokens: float | None = None
    completion_tokens: float | None = None
    problems: int | None = None
    parameters: float | None = None
    layers: int | None = None
    hidden: int | None = None
    kv_width: int | None = None
    vocabulary: int | None = None
    tied: bool | None = None

    def __post_init__(self) -> None:
        for name in ("prompt_tokens", "completion_tokens", "problems"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ConfigError(f"--{name.replace('_', '-')} is {value}, expected a number above 0")
