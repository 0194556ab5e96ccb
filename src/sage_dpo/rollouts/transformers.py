"""Rollouts in this process with transformers' `generate`.

Naive `generate` runs a batch until its longest row has ended, and most rows idle by then. Here a batch stops when half
of its rows have ended and goes on with the others alone (their key-value cache is kept); once only an eighth is left
and other work waits, the stragglers go back to the queue and are batched with stragglers of other batches. Prompts are
sorted by length, and the K samples of a prompt share one prefill.

What this file does not know: sharding. Under `accelerate launch` every process samples its own share of the prompts.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from accelerate.utils import extract_model_from_parallel
from torch import Tensor
from tqdm import tqdm
from transformers import (
    DynamicCache,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    StoppingCriteriaList,
)
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from sage_dpo.errors import ConfigError, NumericalError
from sage_dpo.records import Completion, FinishReason
from sage_dpo.rollouts.engine import Keep, RolloutPrompt, SamplingParams, check_request
from sage_dpo.rollouts.sampling import RunningRows, build_processors, completion_uniforms

_MIN_COMPACTED_ROWS = 16  # below it, another `generate` call costs more than the idle rows it removes
_DEFERRED_SHARE = 8  # a batch hands its last 1/8 back to the queue


@dataclass(slots=True)
class _Row:
    """One completion in the making; `index` is its place in the result."""

    index: int
    sample: int
    prompt: RolloutPrompt
    tokens: list[int] = field(default_factory=list)
    is_done: bool = False

    def __len__(self) -> int:
        return len(self.prompt.prompt_ids) + len(self.tokens)


@dataclass(frozen=True, slots=True)
class _Request:
    settings: SamplingParams
    seed: int
    policy_version: int
    progress_bar: Any


class TransformersEngine:
    """Samples from a causal language model with `model.generate` (see `RolloutEngine`).

    Deterministic in (seed, policy_version, problem id, sample, weights): batch size, order and the other prompts do
    not matter, up to floating-point rounding of batched kernels (see `sampling`). The model's own `generation_config`
    is not consulted, except for its end-of-sequence ids, which are used together with the tokenizer's.

    Args:
        model: a transformers or PEFT model, also wrapped by accelerate or DistributedDataParallel; on its device, in
            its dtype. Its training flags are restored after sampling.
        tokenizer: of the model.
        batch_size: most rows decoded at once.

    Raises:
        ConfigError: no end-of-sequence token is known, or `batch_size` is below 1.
        NumericalError: the model returned NaN logits.
    """

    def __init__(
        self, model: PreTrainedModel | Any, tokenizer: PreTrainedTokenizerBase, *, batch_size: int = 256
    ) -> None:
        if batch_size < 1:
            raise ConfigError(f"batch_size is {batch_size}, expected at least 1; check rollouts.engine.batch_size")
        self.model = extract_model_from_parallel(model)
        self.tokenizer = tokenizer
        self.batch_size = batch_size
        self.stop_ids = _stop_ids(self.model, tokenizer)
        self._pad_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else self.stop_ids[0]
        self._can_select_rows = _can_select_rows(self.model)

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
        """Return completions ordered by prompt, then sample; see `RolloutEngine.sample`."""
        check_request(prompts, seed)
        samples = settings.samples // settings.copies
        rows = [
            _Row(index * samples + sample, sample, prompt)
            for index, prompt in enumerate(prompts)
            for sample in range(samples)
        ]
        with (
            evaluation_mode(self.model),
            torch.inference_mode(),
            tqdm(total=len(rows), desc="sampling", unit="completion", disable=not progress) as progress_bar,
        ):
            request = _Request(settings, seed, policy_version, progress_bar)
            queue = sorted(rows, key=len)
            while queue:
                batch, waiting = queue[: self.batch_size], queue[self.batch_size :]
                self._decode(batch, request, may_defer=bool(waiting))
                queue = sorted([*waiting, *(row for row in batch if not row.is_done)], key=len)
                for start in sorted({row.index // samples * samples for row in batch}):
                    siblings = rows[start : start + samples]
                    if keep and all(row.is_done for row in siblings):  # the last of them in this batch
                        keep(self._completions(siblings, policy_version, settings.copies))
        return self._completions(rows, policy_version, settings.copies)

    def _decode(self, batch: list[_Row], request: _Request, *, may_defer: bool) -> None:
        """Extend the rows of one batch, all to their end, or all but the stragglers if `may_defer`."""
        device = next(self.model.parameters()).device
        ids, mask = _left_pad([[*row.prompt.prompt_ids, *row.tokens] for row in batch], self._pad_id, device)
        cache = self._shared_prefill(batch, ids, mask)
        deferred = len(batch) // _DEFERRED_SHARE if may_defer else 0
        running = batch
        while running:
            is_compacted = cache is not None and len(running) >= _MIN_COMPACTED_ROWS
            floor = max(deferred, len(running) // 2 if is_compacted else 0)
            sequences = self._generate(running, ids, mask, cache, floor, request)
            keep = self._append(running, sequences[:, ids.shape[1] :], request)
            request.progress_bar.update(len(running) - len(keep))
            if len(keep) <= deferred:
                return
            rows = torch.tensor(keep, device=device)
            mask = torch.nn.functional.pad(mask[rows], (0, sequences.shape[1] - ids.shape[1]), value=1)
            ids, running = sequences[rows], [running[index] for index in keep]
            if cache is not None:
                cache.batch_select_indices(rows)

    def _generate(
        self, running: list[_Row], ids: Tensor, mask: Tensor, cache: DynamicCache | None, floor: int, request: _Request
    ) -> Tensor:
        """Return `[B, T + new]` ids after generating until at most `floor` rows still run."""
        settings = request.settings
        limits = [settings.max_new_tokens - len(row.tokens) for row in running]
        processors = build_processors(settings, self._uniforms(running, max(limits), request).to(ids.device))
        stop = RunningRows(torch.tensor(self.stop_ids, device=ids.device), limits, floor)
        generation_config = GenerationConfig(
            do_sample=False,
            max_new_tokens=max(limits),
            eos_token_id=list(self.stop_ids),
            pad_token_id=self._pad_id,
            use_cache=True,
        )
        sequences: Tensor = self.model.generate(
            input_ids=ids,
            attention_mask=mask,
            generation_config=generation_config,
            logits_processor=processors,
            stopping_criteria=StoppingCriteriaList([stop]),
            **({} if cache is None else {"past_key_values": cache}),
        )
        if not bool(processors[-1].is_finite):
            raise NumericalError(
                f"the policy returned NaN logits while sampling {len(running)} completions (first problem "
                f"{running[0].prompt.problem_id!r}); check the weights, or load them as float32 or bfloat16"
            )
        return sequences

    def _uniforms(self, running: list[_Row], steps: int, request: _Request) -> Tensor:
        """Return `[B, steps]` uniforms, each row's from its next position on."""
        numbers = np.zeros((len(running), steps), dtype=np.float32)
        if not request.settings.is_greedy:
            for target, row in zip(numbers, running, strict=True):
                row_numbers = completion_uniforms(
                    request.seed, request.policy_version, row.prompt.problem_id, row.sample, len(row.tokens) + steps
                )
                target[:] = row_numbers[len(row.tokens) :]
        return torch.from_numpy(numbers)

    def _append(self, running: list[_Row], generated: Tensor, request: _Request) -> list[int]:
        """Add the generated tokens to their rows, cut after the first stop token; return which rows go on."""
        for row, tokens in zip(running, generated.tolist(), strict=True):
            tokens = tokens[: request.settings.max_new_tokens - len(row.tokens)]
            end = next((position for position, token in enumerate(tokens) if token in self.stop_ids), None)
            row.tokens.extend(tokens if end is None else tokens[: end + 1])
            row.is_done = end is not None or len(row.tokens) == request.settings.max_new_tokens
        return [index for index, row in enumerate(running) if not row.is_done]

    def _shared_prefill(self, batch: list[_Row], ids: Tensor, mask: Tensor) -> DynamicCache | None:
        """Return the key-value cache of all but the last token, computed once for rows with equal tokens.

        An empty cache, which `generate` fills itself, if no rows are equal; `None` if the model's cache cannot be
        cut by rows.
        """
        if not self._can_select_rows:
            return None
        cache = DynamicCache(config=self.model.config)
        places: dict[tuple[int, ...], int] = {}
        first: list[int] = []
        for index, row in enumerate(batch):
            if places.setdefault((*row.prompt.prompt_ids, *row.tokens), len(places)) == len(first):
                first.append(index)
        if len(first) == len(batch) or ids.shape[1] == 1:
            return cache
        rows = torch.tensor(first, device=ids.device)
        prefix_mask = mask[rows, :-1]
        self.model(
            input_ids=ids[rows, :-1],
            attention_mask=prefix_mask,
            position_ids=(prefix_mask.cumsum(-1) - 1).clamp(min=0),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        copies = [places[(*row.prompt.prompt_ids, *row.tokens)] for row in batch]
        cache.batch_select_indices(torch.tensor(copies, device=ids.device))
        return cache

    def _completions(self, rows: list[_Row], policy_version: int, copies: int) -> list[Completion]:
        texts = [str(self.tokenizer.decode(row.tokens, skip_special_tokens=True)) for row in rows]
        return [
            Completion(
                problem_id=row.prompt.problem_id,
                sample=row.sample + copy,
                text=text,
                prompt_ids=row.prompt.prompt_ids,
                token_ids=tuple(row.tokens),
                finish_reason=FinishReason.STOP if row.tokens[-1] in self.stop_ids else FinishReason.LENGTH,
                policy_version=policy_version,
            )
            for row, text in zip(rows, texts, strict=True)
            for copy in range(copies)
        ]


def _left_pad(sequences: list[list[int]], pad_id: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return ids and mask, `[B, T]` each."""
    width = max(len(sequence) for sequence in sequences)
    ids = np.full((len(sequences), width), pad_id, dtype=np.int64)
    mask = np.zeros_like(ids)
    for target, is_real, sequence in zip(ids, mask, sequences, strict=True):
        target[width - len(sequence) :] = sequence
        is_real[width - len(sequence) :] = 1
    return torch.from_numpy(ids).to(device), torch.from_numpy(mask).to(device)


def _stop_ids(model: Any, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """The tokenizer's end-of-sequence id, then those of the model's generation config (Qwen2.5 has two)."""
    configured = getattr(model.generation_config, "eos_token_id", None)
    configured = configured if isinstance(configured, list) else [configured]
    ids = [token for token in dict.fromkeys([tokenizer.eos_token_id, *configured]) if token is not None]
    if not ids:
        raise ConfigError(
            "neither the tokenizer nor the model's generation_config has an end-of-sequence token, so a completion "
            "could never end; set tokenizer.eos_token"
        )
    return tuple(ids)


def _can_select_rows(model: Any) -> bool:
    """Whether rows of the key-value cache are independent slices (no recurrent states, no prompt-learning adapter)."""
    if any(config.is_prompt_learning for config in getattr(model, "peft_config", {}).values()):
        return False
    layers = DynamicCache(config=model.config).layers
    return bool(layers) and all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in layers)


@contextlib.contextmanager
def evaluation_mode(model: torch.nn.Module) -> Iterator[None]:
    """Dropout and gradient checkpointing off (the latter would disable the cache), the model's own generation config
    out of the way (it fills every field we leave open: repetition penalty, suppressed tokens); all restored after.
    """
    training = [module for module in model.modules() if module.training]
    configured = [module for module in model.modules() if "generation_config" in vars(module)]
    saved = [module.generation_config for module in configured]
    model.eval()
    for module in configured:
        module.generation_config = GenerationConfig()  # type: ignore[assignment]
    try:
        yield
    finally:
        for module in training:
            module.training = True
        for module, generation_config in zip(configured, saved, strict=True):
            module.generation_config = generation_config
