"""A completion server's answer becomes completions; what is no finished answer is told apart."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sage_dpo.errors import RolloutError
from sage_dpo.records import Completion, FinishReason
from sage_dpo.rollouts.endpoint import TransientError
from sage_dpo.rollouts.engine import RolloutPrompt, SamplingParams

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_logger = logging.getLogger(__name__)
_BROKEN_OFF = (None, "", "abort", "error")
_UNFINISHED = re.compile("[\ufffd\ud800-\udfff]")


class LeftOutError(Exception):
    """A prompt gets no completions for a reason of its own."""


class AnswerReader:
    """Reads the answers of one server engine.

    Args:
        tokenizer: of the policy.
        encode_text: encode the text of a server that returns no token ids.
        counts: `reencoded` (completions encoded from text) and `eos_appended` are added to.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *, encode_text: bool, counts: Counter[str]) -> None:
        self._tokenizer, self._encode_text, self.counts = tokenizer, encode_text, counts
        self._special_ids = set(tokenizer.all_special_ids)

    def read(
        self, answer: Any, prompt: RolloutPrompt, settings: SamplingParams, policy_version: int, place: str
    ) -> list[Completion]:
        """Return the completions of one prompt, ordered by sample; a greedy one stands for all.

        Args:
            answer: parsed JSON.
            prompt: what was asked.
            settings: how many completions are expected.
            policy_version: kept in the records.
            place: which server, for messages.

        Raises:
            TransientError: the server broke a completion off (finish reason `abort`, `error` or none).
            LeftOutError: it ended for a reason that is neither the end of the text nor the token limit.
            RolloutError: another format, too few completions, no token ids, ids of another tokenizer.
        """
        choices = _choices(answer, prompt, settings, place)
        for choice in choices:
            reason = choice.get("finish_reason")
            if reason in _BROKEN_OFF:
                raise TransientError(f"a completion was broken off (finish_reason {reason!r})")
            if reason not in ("stop", "length"):
                raise LeftOutError(f"completion ended with finish_reason {reason!r}")
        return [
            self._completion(choice, prompt, sample, policy_version, place)
            for sample, choice in enumerate(choices * settings.copies)
        ]

    def _completion(
        self, choice: Mapping[str, Any], prompt: RolloutPrompt, sample: int, policy_version: int, place: str
    ) -> Completion:
        is_cut = choice["finish_reason"] == "length"
        ids = self._ids(choice, prompt, place)
        if not is_cut and (not ids or ids[-1] not in self._special_ids):
            self.counts["eos_appended"] += 1
            ids.append(int(self._tokenizer.eos_token_id))
        if not ids:
            raise RolloutError(
                f"{place} returned a completion of problem {prompt.problem_id!r} without tokens, cut at the token "
                "limit, expected at least one; look at the server's log"
            )
        return Completion(
            problem_id=prompt.problem_id,
            sample=sample,
            text=str(self._tokenizer.decode(ids, skip_special_tokens=True)),
            prompt_ids=prompt.prompt_ids,
            token_ids=tuple(ids),
            finish_reason=FinishReason.LENGTH if is_cut else FinishReason.STOP,
            policy_version=policy_version,
        )

    def _ids(self, choice: Mapping[str, Any], prompt: RolloutPrompt, place: str) -> list[int]:
        ids, text = choice.get("token_ids"), choice.get("text")
        if ids is None:
            return self._encode(text, prompt, place)
        if not isinstance(ids, list) or not all(type(item) is int and 0 <= item < 2**31 for item in ids):
            raise RolloutError(
                f"{place} returned token_ids for problem {prompt.problem_id!r} that are no ids: {str(ids)[:100]}; is "
                "this an OpenAI-compatible completions endpoint?"
            )
        decoded = str(self._tokenizer.decode(ids, skip_special_tokens=True))
        if isinstance(text, str) and _letters(text) != _letters(decoded):
            raise RolloutError(
                f"{place} reads the token ids it returns for problem {prompt.problem_id!r} as {text[:80]!r}, the "
                f"policy's tokenizer as {decoded[:80]!r}; serve the policy with its own tokenizer"
            )
        return list(ids)

    def _encode(self, text: Any, prompt: RolloutPrompt, place: str) -> list[int]:
        if not isinstance(text, str):
            raise RolloutError(
                f"{place} returned neither token ids nor text for problem {prompt.problem_id!r}: text is {text!r}; "
                "is this an OpenAI-compatible completions endpoint?"
            )
        if not self._encode_text:
            raise RolloutError(
                f"{place} returns no token ids, so that what was sampled is not known; use a server that knows "
                "return_token_ids (vLLM >= 0.10.2), or set rollouts.engine.encode_text to encode its text"
            )
        if not self.counts["reencoded"]:
            _logger.warning(
                "%s returns no token ids; its text is encoded, which may differ from the sampled tokens", place
            )
        self.counts["reencoded"] += 1
        whole = text.encode("utf-8", "ignore").decode("utf-8")  # without half of a surrogate pair
        return list(self._tokenizer.encode(whole, add_special_tokens=False))


def _letters(text: str) -> str:
    """A text without what servers and tokenizers decode differently: white space and bytes of unfinished letters."""
    return "".join(_UNFINISHED.sub("", text).split())


def _choices(answer: Any, prompt: RolloutPrompt, settings: SamplingParams, place: str) -> list[Mapping[str, Any]]:
    choices = answer.get("choices") if isinstance(answer, dict) else None
    if not isinstance(choices, list) or not all(isinstance(choice, dict) for choice in choices):
        raise RolloutError(f"{place} answered problem {prompt.problem_id!r} without `choices`: {str(answer)[:200]!r}")
    wanted = settings.samples // settings.copies
    if len(choices) != wanted:
        raise RolloutError(
            f"{place} returned {len(choices)} completions for problem {prompt.problem_id!r}, expected {wanted}; does "
            "it support `n`?"
        )
    numbers = [choice.get("index", number) for number, choice in enumerate(choices)]
    if not all(type(number) is int for number in numbers) or sorted(numbers) != list(range(wanted)):
        raise RolloutError(
            f"{place} numbers the completions of problem {prompt.problem_id!r} {numbers}, expected `index` 0 to "
            f"{wanted - 1}, each once; does it support `n`?"
        )
    return [choices[numbers.index(number)] for number in range(wanted)]
