"""Every error this package raises on purpose.

Each also inherits the standard-library error a caller would expect, so `except ValueError` keeps working.
A message says what is wrong, what was got, what was wanted and how to mend it.
"""

from __future__ import annotations

from collections.abc import Mapping


class SageError(Exception):
    """Base of every error raised on purpose by `sage_dpo`."""


class ConfigError(SageError, ValueError):
    """A configuration file or argument is invalid (unknown key, value out of range)."""


class DataError(SageError, ValueError):
    """Input data breaks its schema (missing field, duplicate id, empty completion)."""


class EmptyPoolError(SageError, ValueError):
    """No preference pair can be built or drawn (no correct sample at all, everything excluded).

    `exclusions` counts what was left out, by reason, where the pairs were being built.
    """

    def __init__(self, message: str, exclusions: Mapping[str, int] | None = None) -> None:
        super().__init__(message)
        self.exclusions = dict(exclusions or {})


class NumericalError(SageError, ArithmeticError):
    """A log-probability, margin or utility is NaN or infinite."""


class SuiteSizeError(SageError, ValueError):
    """An evaluation suite loaded another number of problems than its record states."""


class RunFolderError(SageError, RuntimeError):
    """A run folder or an output cannot be used (other configuration, damaged manifest, another process writes it)."""


class VerifierError(SageError, RuntimeError):
    """The verification workers cannot be started or keep dying."""


class RolloutError(SageError, RuntimeError):
    """A rollout engine cannot deliver completions (server unreachable, refused request, broken answer)."""


class ProcessError(SageError, RuntimeError):
    """The processes of a run disagree (other files, other pairs), or do not see the same run folder."""
