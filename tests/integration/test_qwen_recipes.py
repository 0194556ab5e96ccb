"""The recipes for Qwen2.5: valid, alike but for what they say, planned, and run on a tiny random model."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from tests.support.policy_server import PolicyServer
from tests.support.qwen import make_tokenizer, save_tiny_qwen

from sage_dpo.config import RunConfig, builtin_recipes, load_config
from sage_dpo.evaluation import runner, suites
from sage_dpo.pipeline.policies import load_model
from sage_dpo.pipeline.run import run
from sage_dpo.planning import Given, find_machine, plan_recipe
from sage_dpo.records import PreferencePair, Problem
from sage_dpo.rollouts.engine import build_prompts
from sage_dpo.run_folder import RunFolder
from sage_dpo.storage import read_json, read_records

NAMES = [recipe.name for recipe in builtin_recipes() if recipe.name.startswith("qwen2.5-")]
SIZES = ("1.5b", "3b", "7b")
SHAPES = {
    "1.5b": Given(110, 400, 14971, 1_543_714_304, 28, 1536, 256, 151_936, True),
    "3b": Given(110, 400, 14971, 3_085_938_688, 36, 2048, 256, 151_936, True),
    "7b": Given(110, 400, 14971, 7_615_616_512, 28, 3584, 512, 152_064, False),
}
GPUS = {"24": "RTX-4090", "48": "L40S", "80": "H100", "141": "H200"}
GOLD = {f"What is {number} + {number}?": str(2 * number) for number in range(10, 22)}
SUITE_ROWS: dict[str, dict[str, Any]] = {
    "gsm8k": {"question": "What is 1 + 1?", "answer": "One and one.\n#### 2"},
    "math500": {"problem": "What is 1 + 2?", "solution": "It is $\\boxed{3}$.", "unique_id": "test/a/{}.json"},
    "minerva_math": {"problem": "What is 1 + 3?", "solution": "It is $\\boxed{4}$."},
    "gaokao2023en": {"question": "What is 1 + 4?", "answer": "$5$"},
    "olympiadbench": {"id": "{}", "question": "What is 1 + 5?", "final_answer": ["$6$"], "solution": ["It is 6."]},
    "college_math": {"question": "What is 1 + 6?", "answer": "$7$"},
    "amc23": {"id": "{}", "problem": "What is 1 + 7?", "answer": 8.0},
    "aime24": {"id": "{}", "problem": "What is 1 + 8?", "answer": "009"},
}
ROWS_OF_A_SUITE = 2


def size_of(name: str) -> str:
    return name.split("-")[1]


def test_there_is_one_for_every_model_of_the_paper_in_both_ways():
    assert sorted(NAMES) == sorted(f"qwen2.5-{size}-{way}" for size in SIZES for way in ("full", "lora"))


@pytest.mark.parametrize("name", NAMES)
def test_they_differ_only_in_model_rate_and_what_saves_memory(name):
    first, other = (load_config(n).model_dump(mode="json") for n in ("qwen2.5-1.5b-full", name))
    is_lora = name.endswith("lora")
    assert other["policy"]["path"].lower() == f"qwen/qwen2.5-{size_of(name)}-instruct"
    assert (other["policy"]["dtype"], bool(other["policy"]["lora"])) == (
        ("bfloat16", True) if is_lora else ("float32", False)
    )
    assert other["training"]["learning_rate"] == (1e-5 if is_lora else 1e-6)
    for config in (first, other):
        del config["training"]["learning_rate"], config["training"]["microbatch_size"]
        config["training"]["trainer"].pop("optim", None)
        sync = config["rollouts"]["engine"].pop("sync")
        assert sync["kind"] == ("lora" if config["policy"]["lora"] else "reload")
        del config["name"], config["policy"]
    assert other == first


@pytest.mark.parametrize("name", NAMES)
def test_their_prompts_are_those_of_the_qwen_harness(name):
    """`qwen25-math-cot` of the harness writes the conversation as text; ours comes from the chat template."""
    rollouts = load_config(name).rollouts
    (prompt,) = build_prompts(
        [Problem("a", "What is {x} if $x = 2$?", "2")],
        make_tokenizer(),
        prompt_template=rollouts.prompt_template,
        system_prompt=rollouts.system_prompt,
    )
    assert make_tokenizer().decode(prompt.prompt_ids) == (
        "<|im_start|>system\nPlease reason step by step, and put your final answer within \\boxed{}.<|im_end|>\n"
        "<|im_start|>user\nWhat is {x} if $x = 2$?<|im_end|>\n<|im_start|>assistant\n"
    )


@pytest.mark.parametrize("name", NAMES)
def test_each_fits_the_gpu_that_it_asks_for_and_not_half_of_it(name):
    needs = next(recipe.needs for recipe in builtin_recipes() if recipe.name == name)
    (memory,) = re.findall(r"one of (\d+) GB for training", needs)
    plan = plan_recipe(load_config(name), find_machine(GPUS[memory]), SHAPES[size_of(name)])
    assert plan.warnings == ()
    assert float(memory) / 2 < plan.total.memory_gb < float(memory) or memory == "24"  # no smaller card is planned for


# -- run ---------------------------------------------------------------------------------------------------------------


@dataclass
class Solver(PolicyServer):
    """Holds the policy, follows it, and yet answers half of its samples rightly: every problem makes pairs."""

    asked: set[str] = field(default_factory=set)

    def _sample(self, model: Any, request: dict[str, Any]) -> list[dict[str, Any]]:
        prompt = self.tokenizer.decode(request["prompt"])
        (question,) = (question for question in GOLD if f"user\n{question}<|im_end|>" in prompt)
        self.asked.add(question)
        answers = [int(GOLD[question]) + (index % 2) * (1 + index) for index in range(request["n"])]
        texts = [f"{'So, ' * index}it is \\boxed{{{answer}}}." for index, answer in enumerate(answers)]
        ids = [[*self.tokenizer.encode(text), self.tokenizer.eos_token_id] for text in texts]
        return [
            {"index": index, "text": text, "finish_reason": "stop", "token_ids": ids[index]}
            for index, text in enumerate(texts)
        ]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a user has under `data/` after downloading: files with the names and fields of their repositories."""
    folder = tmp_path_factory.mktemp("downloads") / "data"
    gsm8k = folder / "grade-school-math" / "grade_school_math" / "data" / "train.jsonl"
    gsm8k.parent.mkdir(parents=True)
    questions = list(GOLD)
    rows = [{"question": text, "answer": f"Add them.\n#### {GOLD[text]}"} for text in questions[:6]]
    gsm8k.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for number, text in enumerate(questions[6:]):
        path = folder / "MATH" / "train" / ("algebra", "geometry")[number % 2] / f"{number}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        row = {"problem": text, "level": "Level 1", "type": "Algebra", "solution": f"It is $\\boxed{{{GOLD[text]}}}$."}
        path.write_text(json.dumps(row))
    for name, row in SUITE_ROWS.items():
        path = folder / "Qwen2.5-Math" / "evaluation" / "data" / name / "test.jsonl"
        path.parent.mkdir(parents=True)
        lines = [json.dumps(row).replace("{}", str(number)) for number in range(ROWS_OF_A_SUITE)]
        path.write_text("".join(f"{line}\n" for line in lines))
    return folder.parent


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A model by size: the embeddings of Qwen2.5-7B are not tied, the others' are."""
    tied, untied = (save_tiny_qwen(tmp_path_factory.mktemp("qwen"), tied=is_tied) for is_tied in (True, False))
    return {"1.5b": tied, "3b": tied, "7b": untied}


def smaller(name: str, model: Path, url: str) -> RunConfig:
    """The recipe as it is, but for the model, the server's address, and how much of everything there is."""
    return load_config(
        name,
        {
            "policy.path": str(model),
            "rollouts.engine.base_url": url,
            "rollouts.samples": 4,
            "rollouts.max_new_tokens": 8,
            "evaluation.max_new_tokens": 4,
            "evaluation.bootstrap_resamples": 100,
            "probe.count": 3,
            "pool.refresh_steps": 1,
            "verification.workers": 1,
            "training.steps": 2,
            "training.pairs_per_step": 4,
            "training.microbatch_size": 2,
            "training.probe_steps": 1,
            "training.save_steps": 1,
            "training.trainer.warmup_steps": 0,  # so that the first step moves the policy already
            "arms.dpo_full.training.pairs_per_step": 8,
        },
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_each_runs_to_its_report(name, models, data, tmp_path, monkeypatch):
    small = {suite: replace(record, size=ROWS_OF_A_SUITE) for suite, record in suites.BENCHMARKS.items()}
    for module in (suites, runner):
        monkeypatch.setattr(module, "BENCHMARKS", small)
    monkeypatch.chdir(data)
    policy = load_config(name).policy.model_copy(update={"path": str(models[size_of(name)])})
    with Solver(make_tokenizer(), policy=load_model(policy).eval()).serve() as server:
        config = smaller(name, models[size_of(name)], server.url)
        folder = RunFolder(run(config, output=tmp_path / "run", progress=False))
    problems = folder.stages()["problems"]
    assert {part: problems[part]["count"] for part in problems} == {"train": len(GOLD) - 3, "probe": 3}
    assert len(server.asked) == len(GOLD) - 3
    handed_over = [path for path in server.loaded if path != policy.path]
    assert len(handed_over) == 3  # one refresh of each trained arm; the server is checked to hold it before it samples
    pairs = read_records(folder.first_pool.pairs, PreferencePair)
    assert {pair.problem_id.split("/")[0] for pair in pairs} == {"gsm8k", "math"}
    summary = read_json(folder.summary)
    assert list(summary["arms"]) == ["vanilla", "dpo_full", "dpo_random", "sage"]
    for arm in summary["arms"].values():
        assert set(arm["suites"]) == set(suites.BENCHMARKS)
    trained = {name: arm["kept_pairs"] for name, arm in summary["arms"].items()}
    assert (trained["vanilla"], trained["dpo_full"], trained["dpo_random"]) == (0, 16, 8)
    assert 0 < trained["sage"] <= 8  # the gate may shut some
    assert folder.page.is_file()
