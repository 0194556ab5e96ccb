"""Whether a server holds the policy: its log-probabilities of a few prompts beside ours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from accelerate.utils import extract_model_from_parallel
from numpy.typing import NDArray

from sage_dpo.errors import RolloutError
from sage_dpo.rollouts.client import Client
from sage_dpo.rollouts.endpoint import Endpoint, RefusedError
from sage_dpo.rollouts.engine import RolloutPrompt
from sage_dpo.rollouts.transformers import evaluation_mode

_PROMPTS, _LENGTH = 4, 256
_FLOOR = 1e-5  # nats; below it a policy has not moved as far as float32 can tell


@dataclass(eq=False)
class Fingerprints:
    """Log-probabilities of the same prompts under each version of the policy, ours and the servers'.

    Attributes:
        prompts: token ids; those of the first job.
        ours: `[N]` of the present version.
        servers: by address, what each answered at its last check, and ours of that version.
    """

    prompts: list[list[int]] = field(default_factory=list)
    ours: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    servers: dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]] = field(default_factory=dict)

    def measure(self, model: Any, prompts: Sequence[RolloutPrompt]) -> None:
        """Compute ours with the policy as it is now."""
        if not self.prompts:
            long = [list(prompt.prompt_ids[:_LENGTH]) for prompt in prompts if len(prompt.prompt_ids) > 1]
            self.prompts = long[:_PROMPTS]
        self.ours = _concatenate(_log_probabilities(model, prompt) for prompt in self.prompts)

    async def check(self, client: Client, endpoint: Endpoint, model: str, tolerance: float) -> None:
        """Compare a server with ours.

        Two things are looked at: the mean absolute difference, which is rounding where the policy is the same; and,
        where ours moved since the last check by more than that rounding, whether the server moved along, which a small
        update does not show in the first.

        Args:
            client, endpoint: whom to ask.
            model: the policy's name there.
            tolerance: mean absolute difference in nats a token.

        Raises:
            RolloutError: the server holds another policy, or tells no log-probabilities of a prompt.
        """
        theirs = _concatenate([await _ask(client, endpoint, model, prompt) for prompt in self.prompts])
        difference = float(np.abs(theirs - self.ours).mean()) if len(theirs) else 0.0
        if not difference <= tolerance:
            raise RolloutError(
                f"{endpoint.place} holds another policy under {model!r}: its log-probabilities of {len(theirs)} tokens "
                f"differ from ours by {difference:.3g} nats on average, expected at most {tolerance:g}; serve the "
                "policy of this recipe, or raise rollouts.engine.tolerance where the server computes in lower precision"
            )
        before = self.servers.get(endpoint.root)
        if before is not None and _moved_along(*before, theirs, self.ours) < 0.5:
            raise RolloutError(
                f"{endpoint.place} still answers as the policy before the refresh under {model!r}; look at its log "
                "for why it did not load the new one"
            )
        self.servers[endpoint.root] = theirs, self.ours


def _moved_along(
    theirs_before: NDArray[np.float64],
    ours_before: NDArray[np.float64],
    theirs: NDArray[np.float64],
    ours: NDArray[np.float64],
) -> float:
    """Return the share of our change that the server's change has in it; 1 where ours is lost in rounding.

    All `[N]`. The projection <theirs - theirs_before, d> / <d, d> on d = ours - ours_before; what a server rounds alike
    at both versions cancels.
    """
    change, rounding = ours - ours_before, theirs_before - ours_before
    if _rms(change) <= max(_rms(rounding), _FLOOR):
        return 1.0
    return float((theirs - theirs_before) @ change / (change @ change))


def _rms(values: NDArray[np.float64]) -> float:
    return float(np.sqrt(np.mean(values**2))) if len(values) else 0.0


def _log_probabilities(model: Any, prompt: Sequence[int]) -> NDArray[np.float64]:
    """Return `[T - 1]`, each token's after those before it."""
    plain = extract_model_from_parallel(model)
    ids = torch.tensor([list(prompt)], device=next(plain.parameters()).device)
    with evaluation_mode(plain), torch.inference_mode():
        scores = plain(input_ids=ids, use_cache=False).logits[0, :-1].float().log_softmax(dim=-1)
    values: NDArray[np.float64] = scores.gather(1, ids[0, 1:, None]).squeeze(1).double().cpu().numpy()
    return values


async def _ask(client: Client, endpoint: Endpoint, model: str, prompt: list[int]) -> NDArray[np.float64]:
    body = {"model": model, "prompt": prompt, "max_tokens": 1, "temperature": 0.0, "echo": True, "logprobs": 1}
    try:
        answer = await client.call(endpoint, "/v1/completions", body)
        values = answer["choices"][0]["logprobs"]["token_logprobs"][1 : len(prompt)]
        theirs = np.array([float(value) for value in values], dtype=np.float64)
    except RefusedError as error:
        raise RolloutError(f"{endpoint.place} cannot be compared with the policy: {error}") from None
    except (KeyError, IndexError, TypeError, ValueError):
        theirs = np.zeros(0)
    if len(theirs) != len(prompt) - 1:
        raise RolloutError(
            f"{endpoint.place} tells no log-probabilities of a prompt (`echo` with `logprobs`), so that its policy "
            "cannot be checked; use vLLM or SGLang"
        )
    return theirs


def _concatenate(parts: Any) -> NDArray[np.float64]:
    return np.concatenate([np.zeros(0), *parts])
