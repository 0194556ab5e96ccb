"""Rollouts in this process with a transformers model.

Completions are decoded together and each slot is refilled when its row ends (`decoding`). Models that are not known to
allow it (`known_models`: recurrent states, prompt learning, types that nobody tried) run whole batches by their own
`generate`, every batch until its longest row has ended.

What this file does not know: sharding. Under `accelerate launch` every process samples its own share of the prompts.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from accelerate.utils import extract_model_from_parallel
from tqdm import tqdm
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from sage_dpo.errors import ConfigError, DataError
from sage_dpo.records import Completion, FinishReason
from sage_dpo.rollouts.decoding import Decoder
from sage_dpo.rollouts.engine import Keep, RolloutPrompt, SamplingParams, check_request
from sage_dpo.rollouts.known_models import can_be_padded, can_use_slots, most_positions
from sage_dpo.rollouts.precision import fastest_precision
from sage_dpo.rollouts.rows import Row, Rules
from sage_dpo.rollouts.sampling import TokenSampler, completion_uniforms
from sage_dpo.rollouts.whole_batches import generate_batches


class TransformersEngine:
    """Samples from a causal language model in this process (see `RolloutEngine`).

    Deterministic in (seed, policy_version, problem id, sample, weights): batch size, order and the other prompts do
    not matter, up to floating-point rounding of batched kernels (see `sampling`). The model's own `generation_config`
    is not consulted, except for its end-of-sequence ids, which are used together with the tokenizer's.

    Args:
        model: a transformers or PEFT model, also wrapped by accelerate or DistributedDataParallel; on its device, in
            its dtype (see `precision` for bfloat16 on a CPU). Its training flags are restored after sampling.
        tokenizer: of the model.
        batch_size: most rows decoded at once.

    Raises:
        ConfigError: no end-of-sequence token is known, `batch_size` is below 1, or the model is an encoder-decoder.
        DataError: a prompt and its completion may need more positions than the model has.
        NumericalError: the model returned NaN logits.
    """

    def __init__(
        self, model: PreTrainedModel | Any, tokenizer: PreTrainedTokenizerBase, *, batch_size: int = 256
    ) -> None:
        if batch_size < 1:
            raise ConfigError(f"batch_size is {batch_size}, expected at least 1; check rollouts.engine.batch_size")
        self.model = extract_model_from_parallel(model)
        if self.model.config.is_encoder_decoder:
            raise ConfigError(
                f"the policy is an encoder-decoder ({self.model.config.model_type}), expected a causal language model, "
                "which continues its prompt; load one with AutoModelForCausalLM"
            )
        self.tokenizer = tokenizer
        self.batch_size = batch_size
        self.stop_ids = _stop_ids(self.model, tokenizer)
        self._pad_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else self.stop_ids[0]

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
        self._check_positions(prompts, settings.max_new_tokens)
        samples = settings.samples // settings.copies
        rows = [
            Row(index * samples + sample, sample, prompt)
            for index, prompt in enumerate(prompts)
            for sample in range(samples)
        ]
        missing = [samples] * len(prompts)
        count = settings.max_new_tokens

        def uniforms(row: Row) -> np.ndarray:
            if settings.is_greedy:
                return np.zeros(count, dtype=np.float32)
            return completion_uniforms(seed, policy_version, row.prompt.problem_id, row.sample, count)

        rules = Rules(TokenSampler(settings), uniforms, count, self.stop_ids, self._pad_id)
        with (
            evaluation_mode(self.model),
            fastest_precision(self.model),
            torch.inference_mode(),
            tqdm(total=len(rows), desc="sampling", unit="completion", disable=not progress) as progress_bar,
        ):
            # The longest prompts first: memory that does not suffice fails at once.
            for done in self._decode(sorted(rows, key=len, reverse=True), rules):
                progress_bar.update(len(done))
                for row in done:
                    prompt = row.index // samples
                    missing[prompt] -= 1
                    if keep and not missing[prompt]:
                        siblings = rows[prompt * samples : (prompt + 1) * samples]
                        keep(self._completions(siblings, policy_version, settings.copies))
        return self._completions(rows, policy_version, settings.copies)

    def _decode(self, rows: list[Row], rules: Rules) -> Iterator[list[Row]]:
        """Extend rows to their end, at most `batch_size` at once; yield them as they are done."""
        slots = min(self.batch_size, len(rows))
        longest = max(map(len, rows), default=0) + rules.max_new_tokens
        if can_use_slots(self.model, longest):
            return Decoder(self.model, rules, slots=slots).run(rows)
        return generate_batches(self.model, rows, rules, batch_size=slots, pads=can_be_padded(self.model, longest))

    def _check_positions(self, prompts: Sequence[RolloutPrompt], max_new_tokens: int) -> None:
        most = most_positions(self.model)
        longest = max(prompts, key=lambda prompt: len(prompt.prompt_ids), default=None)
        if longest and len(longest.prompt_ids) + max_new_tokens > most:
            raise DataError(
                f"problem {longest.problem_id!r}: the prompt has {len(longest.prompt_ids)} tokens and its completion "
                f"up to {max_new_tokens}, but the policy has {most} positions; lower rollouts.max_new_tokens or leave "
                "out problems that long"
            )

    def _completions(self, rows: list[Row], policy_version: int, copies: int) -> list[Completion]:
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
