"""Completions on disk as they come: a job that dies has lost the requests under way, no finished one.

A journal is JSON Lines. The first line is what the completions depend on (policy, prompts, sampling, seed); each other
line holds all completions of one prompt. A journal of anything else is begun anew. Lines are written whole and in one
go, so that a kill leaves half of the last one at most, which the next start cuts off.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sage_dpo.records import Completion, FinishReason


class CompletionJournal:
    """Completions of a sampling job, kept prompt by prompt.

    Args:
        path: of the file; created with its folder. One with the same key is gone on with. `None` keeps none.
        key: JSON values that say what the completions depend on.

    Attributes:
        kept: completions that earlier attempts have left, by problem id.
    """

    def __init__(self, path: Path | None, key: Mapping[str, Any]) -> None:
        self.kept: dict[str, list[Completion]] = {}
        self._earlier_s, self._started = 0.0, time.perf_counter()
        self._file: int | None = None
        if path is None:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            end = self._read(path, dict(key))
            os.ftruncate(self._file, end)
            os.lseek(self._file, end, os.SEEK_SET)
            if not end:
                self._write({"key": dict(key)})
        except BaseException:
            os.close(self._file)
            raise

    def __enter__(self) -> CompletionJournal:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    @property
    def seconds(self) -> float:
        """Wall-clock of all attempts so far, each up to the last completion it kept."""
        return self._earlier_s + time.perf_counter() - self._started

    def add(self, completions: list[Completion]) -> None:
        """Keep the completions of one prompt.

        Raises:
            OSError: they cannot be written; what was kept before stays.
        """
        self._write({"seconds": self.seconds, "completions": [asdict(completion) for completion in completions]})

    def _write(self, value: dict[str, Any]) -> None:
        if self._file is None:
            return
        line = memoryview(json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n")
        while line:
            line = line[os.write(self._file, line) :]

    def _read(self, path: Path, key: dict[str, Any]) -> int:
        """Take over what was kept under the same key; return the length of the file up to there."""
        end = 0
        with path.open("rb") as file:
            for line in file:
                try:
                    values: Any = json.loads(line) if line.endswith(b"\n") else None
                    if end:
                        self._take(values)
                    elif values is None or values.get("key") != json.loads(json.dumps(key)):
                        return 0
                except (ValueError, LookupError, TypeError, AttributeError):  # damaged: what follows is sampled again
                    return end
                end += len(line)
        return end

    def _take(self, values: dict[str, Any]) -> None:
        rows = [
            Completion(
                **{
                    **row,
                    "prompt_ids": tuple(row["prompt_ids"]),
                    "token_ids": tuple(row["token_ids"]),
                    "finish_reason": FinishReason(row["finish_reason"]),
                }
            )
            for row in values["completions"]
        ]
        self.kept[rows[0].problem_id] = rows
        self._earlier_s = float(values["seconds"])
