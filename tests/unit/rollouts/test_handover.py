"""A server that follows the policy: each version is written, loaded by the server's means, and checked."""

from __future__ import annotations

import copy
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from tests.support.policy_server import PolicyServer
from tests.support.tiny import make_tiny_model
from transformers import AutoModelForCausalLM

from sage_dpo.config import RolloutSettings, ServerEngineSettings, validate
from sage_dpo.errors import RolloutError
from sage_dpo.records import Completion, Problem
from sage_dpo.rollouts import SamplingParams, build_prompts
from sage_dpo.rollouts.fingerprint import _moved_along
from sage_dpo.rollouts.handover import Handover, save_merged
from sage_dpo.rollouts.server import ServerEngine

SETTINGS = SamplingParams(samples=2, max_new_tokens=6)
PROBLEMS = [Problem(f"p{i}", f"{i} + {i} * 3 - 1", "1") for i in range(5)]


def moved(model: Any, scale: float = 0.05) -> Any:
    """The model after a few steps, so to say."""
    changed = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in changed.parameters():
            if parameter.requires_grad:
                parameter += scale * torch.randn(parameter.shape, generator=generator)
    return changed


def with_adapter(model: Any) -> Any:
    config = LoraConfig(r=2, lora_alpha=4, target_modules="all-linear", task_type="CAUSAL_LM")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return get_peft_model(copy.deepcopy(model), config).eval()


class Follower:
    """One arm's way of sampling: a server, its means, and the versions handed over so far."""

    def __init__(self, server: PolicyServer, folder: Path, sync: dict[str, Any], **engine: Any) -> None:
        given = {"base_url": server.url, "backoff_s": 0.01, "health_s": 0.05, "retry_s": 20.0, **engine}
        rollouts = validate(RolloutSettings, {"engine": {"kind": "server", "sync": sync, **given}})
        assert isinstance(rollouts.engine, ServerEngineSettings)
        assert rollouts.engine.sync is not None
        self.settings, self.tokenizer = rollouts.engine, server.tokenizer
        self.handover = Handover(
            rollouts.engine.sync, server.tokenizer, untuned=str(folder / "untuned"), folder=lambda v: folder / f"v{v}"
        )
        server.policy.save_pretrained(folder / "untuned")

    def sample(self, model: Any, version: int, keep: Any = None) -> list[Completion]:
        engine = ServerEngine(self.settings, self.tokenizer, model=model, handover=self.handover)
        prompts = build_prompts(PROBLEMS, self.tokenizer)
        return engine.sample(prompts, settings=SETTINGS, seed=0, policy_version=version, keep=keep)


@pytest.fixture
def server(tiny_tokenizer: Any) -> Iterator[PolicyServer]:
    with PolicyServer(tiny_tokenizer, policy=make_tiny_model()).serve() as server:
        yield server


KINDS = ["lora", "reload"]


def policies(kind: str) -> tuple[Any, Any, Any]:
    """An untuned policy and two later versions."""
    base = make_tiny_model()
    start = with_adapter(base) if kind == "lora" else base
    return base, moved(start, 0.3 if kind == "lora" else 0.05), moved(start, 0.6 if kind == "lora" else 0.1)


@pytest.mark.parametrize("kind", KINDS)
def test_every_version_samples_as_itself(kind: str, server: PolicyServer, tmp_path: Path) -> None:
    base, first, second = policies(kind)
    follower = Follower(server, tmp_path, {"kind": kind})
    sampled = [follower.sample(model, version) for version, model in enumerate((base, first, second))]
    assert [{c.policy_version for c in completions} for completions in sampled] == [{0}, {1}, {2}]
    for version, model in enumerate((base, first, second)):
        plain = PolicyServer(server.tokenizer, policy=model)
        with plain.serve():
            alone = Follower(plain, tmp_path / str(version), {"kind": "reload"})
            alone.handover = None  # type: ignore[assignment]
            assert alone.sample(None, version) == sampled[version]
    assert len({tuple(c.token_ids for c in completions) for completions in sampled}) == 3


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_written_is_deleted_and_old_adapters_unloaded(kind: str, server: PolicyServer, tmp_path: Path) -> None:
    _, first, second = policies(kind)
    follower = Follower(server, tmp_path, {"kind": kind})
    for version, model in ((1, first), (2, second)):
        follower.sample(model, version)
        assert (tmp_path / f"v{version}").is_dir()
        follower.handover.clear(version)
        assert not (tmp_path / f"v{version}").exists()
    assert server.loaded == [str(tmp_path / "v1"), str(tmp_path / "v2")]
    assert len(server.adapters) == (kind == "lora")


@pytest.mark.parametrize("kind", KINDS)
def test_a_server_that_does_not_load_is_found_out(kind: str, server: PolicyServer, tmp_path: Path) -> None:
    server.is_deaf = True
    with pytest.raises(RolloutError, match=r"holds another policy .* differ from ours by .* expected at most 0.1"):
        Follower(server, tmp_path, {"kind": kind}).sample(policies(kind)[2], 1)
    assert not server.requests or "seed" not in server.requests[-1]  # nothing was sampled


def test_a_small_update_that_is_not_loaded_is_found_out(server: PolicyServer, tmp_path: Path) -> None:
    """Too small for the tolerance, but above the server's rounding."""
    base = make_tiny_model()
    follower = Follower(server, tmp_path, {"kind": "reload"})
    follower.sample(base, 0)
    follower.sample(moved(base, 1e-3), 1)
    server.is_deaf = True
    with pytest.raises(RolloutError, match="still answers as the policy before the refresh"):
        follower.sample(moved(base, 2e-3), 2)


def test_the_servers_share_of_our_change() -> None:
    rng = np.random.default_rng(0)
    ours, rounding, change = rng.normal(size=400), 0.01 * rng.normal(size=400), 0.03 * rng.normal(size=400)
    again = 0.01 * rng.normal(size=400)
    assert _moved_along(ours + rounding, ours, ours + rounding, ours + change) == 0.0
    assert _moved_along(ours + rounding, ours, ours + change + rounding, ours + change) == pytest.approx(1.0)
    assert 0.8 < _moved_along(ours + rounding, ours, ours + change + again, ours + change) < 1.2
    assert _moved_along(ours + rounding, ours, ours + rounding, ours + change / 10) == 1.0  # lost in rounding


def test_another_model_than_the_policy_is_refused_before_it_samples(server: PolicyServer, tmp_path: Path) -> None:
    follower = Follower(server, tmp_path, {"kind": "reload"})
    follower.handover = None  # type: ignore[assignment]
    with pytest.raises(RolloutError, match=r"holds another policy under 'tiny'.*serve the policy of this recipe"):
        follower.sample(make_tiny_model(seed=1), 0)
    assert len(follower.sample(make_tiny_model(), 0)) == 10


@pytest.mark.parametrize(
    ("kind", "lacks", "message"),
    [
        ("lora", {"loads_adapters": False}, "loads no adapters .*--enable-lora and VLLM_ALLOW_RUNTIME_LORA_UPDATING=1"),
        ("reload", {"reloads": False}, "reloads no weights .*VLLM_SERVER_DEV_MODE=1"),
    ],
)
def test_a_server_without_the_means_is_named(
    kind: str, lacks: dict[str, bool], message: str, server: PolicyServer, tmp_path: Path
) -> None:
    for name, value in lacks.items():
        setattr(server, name, value)
    with pytest.raises(RolloutError, match=message):
        Follower(server, tmp_path, {"kind": kind}).sample(policies(kind)[1], 1)


def test_a_folder_that_the_server_does_not_see_is_named(server: PolicyServer, tmp_path: Path) -> None:
    server._reload = lambda path: PolicyServer._reload(server, f"/elsewhere{path}")  # type: ignore[method-assign]
    with pytest.raises(RolloutError, match=r"could not load .*/v1: /collective_rpc HTTP 500.*under the same path"):
        Follower(server, tmp_path, {"kind": "reload"}).sample(moved(make_tiny_model()), 1)


@pytest.mark.parametrize("kind", KINDS)
def test_a_server_that_comes_back_is_handed_the_policy_again(kind: str, tiny_tokenizer: Any, tmp_path: Path) -> None:
    """It comes back with the weights it was started with; what it answers is from the version asked for."""
    base, first, _ = policies(kind)
    with PolicyServer(tiny_tokenizer, policy=base).serve() as steady:
        expected = Follower(steady, tmp_path / "steady", {"kind": kind}).sample(first, 1)
    dying = PolicyServer(tiny_tokenizer, policy=base, dies_after=6)
    back = PolicyServer(tiny_tokenizer, policy=copy.deepcopy(base))
    kept: list[Completion] = []
    with dying.serve():
        port, done = int(dying.url.split(":")[2].split("/")[0]), threading.Event()

        def restart() -> None:
            dying.dead.wait(30)
            with back.serve(port):
                done.wait(60)

        restarting = threading.Thread(target=restart)
        restarting.start()
        try:
            follower = Follower(dying, tmp_path / "dying", {"kind": kind}, concurrency=1)
            assert follower.sample(first, 1, keep=kept.extend) == expected
        finally:
            done.set()
            restarting.join()
    assert dying.loaded == back.loaded == [str(tmp_path / "dying" / "v1")]
    assert sorted((c.problem_id, c.sample) for c in kept) == sorted((c.problem_id, c.sample) for c in expected)


@pytest.mark.parametrize(("retry_after", "times"), [("0.01", 1), (None, 2)])
def test_a_busy_server_keeps_its_policy_and_one_that_was_away_gets_it_again(
    retry_after: str | None, times: int, server: PolicyServer, tmp_path: Path
) -> None:
    server.failures, server.retry_after = [503], retry_after
    Follower(server, tmp_path, {"kind": "reload"}, concurrency=1).sample(moved(make_tiny_model()), 1)
    assert server.loaded == [str(tmp_path / "v1")] * times


def test_a_command_starts_the_server_with_the_weights(tiny_tokenizer: Any, tmp_path: Path) -> None:
    """The command leaves a note; whoever serves reads it, comes up with these weights, and answers from then on."""
    note, first = tmp_path / "note", moved(make_tiny_model())
    script = f"import sys; open({str(note)!r}, 'w').write(sys.argv[1] + ' ' + sys.argv[2])"
    sync = {"kind": "restart", "command": [sys.executable, "-c", script, "{folder}", "{url}"]}

    class Restarted(PolicyServer):
        def get(self, path: str) -> tuple[int, Any]:
            with self._lock:
                if not note.is_file():
                    return 503, {}
                if not self.loaded:
                    self.loaded.append(note.read_text().split()[0])
                    self.policy = AutoModelForCausalLM.from_pretrained(self.loaded[0]).eval()
            return super().get(path)

    with Restarted(tiny_tokenizer, policy=make_tiny_model()).serve() as server:
        assert len(Follower(server, tmp_path, sync).sample(first, 1)) == 10
        assert note.read_text() == f"{tmp_path / 'v1'} {server.url.removesuffix('/v1')}"
        failing = {"kind": "restart", "command": [sys.executable, "-c", "raise SystemExit(3)  # a-key"]}
        with pytest.raises(RolloutError, match=r"sync.command \(.*\) ended with status 3, expected 0(?!.*a-key)"):
            Follower(server, tmp_path, failing).sample(first, 1)
        staying = [sys.executable, "-c", "import time; time.sleep(600)"]
        with pytest.raises(RolloutError, match=r"sync.command \(.*\) did not end within 0.5 s; it must .* background"):
            Follower(server, tmp_path, {"kind": "restart", "command": staying, "start_timeout_s": 0.5}).sample(first, 1)
        with pytest.raises(RolloutError, match=r"sync.command cannot be run"):
            Follower(server, tmp_path, {"kind": "restart", "command": [str(tmp_path / "no")]}).sample(first, 1)


def test_merged_weights_are_those_of_the_adapted_model(tmp_path: Path) -> None:
    adapted = moved(with_adapter(make_tiny_model()), 0.3)
    before = {name: value.clone() for name, value in adapted.state_dict().items()}
    save_merged(adapted, tmp_path)
    merged = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    ids = torch.arange(5, 25)[None]
    with torch.no_grad():
        torch.testing.assert_close(merged(input_ids=ids).logits, adapted(input_ids=ids).logits, rtol=0.0, atol=1e-4)
        assert not torch.allclose(merged(input_ids=ids).logits, make_tiny_model()(input_ids=ids).logits, atol=1e-2)
    assert all(torch.equal(value, before[name]) for name, value in adapted.state_dict().items())
