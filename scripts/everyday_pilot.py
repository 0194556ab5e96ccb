"""What a policy can do of the everyday questions: for each family and level the success rate of its samples, the share
of problems that yield pairs, and that with the same wrong answer in half of the samples or more (confident errors).

    python scripts/everyday_pilot.py --model runs/smollm2-start

Samples are drawn as in recipes/smollm2.yaml, but for their length. Wrong answers are compared as read; one that is read
from no sample counts as none.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter, defaultdict
from pathlib import Path

from sage_dpo.config import PolicySettings, RolloutSettings, TransformersEngineSettings
from sage_dpo.everyday.question import Level
from sage_dpo.everyday.world import FAMILIES, generate_problems
from sage_dpo.pipeline.policies import load_model, load_tokenizer
from sage_dpo.records import Problem, Verdict
from sage_dpo.rollouts.build import sample_rollouts
from sage_dpo.verification import Verifier, requests_for

TEMPLATE = "{problem}"


def summarize(problems: list[Problem], verdicts: list[Verdict]) -> dict[str, float]:
    """Return `success`, `pairs` and `confident`, shares in [0, 1], and `unread`, that of samples without an answer."""
    graded: dict[str, list[Verdict]] = defaultdict(list)
    for verdict in verdicts:
        graded[verdict.problem_id].append(verdict)
    correct = {name: [v.is_correct for v in found] for name, found in graded.items()}
    wrong = {
        name: Counter(v.extracted for v in found if not v.is_correct and v.extracted) for name, found in graded.items()
    }
    return {
        "success": sum(v.is_correct for v in verdicts) / len(verdicts),
        "pairs": sum(any(c) and not all(c) for c in correct.values()) / len(problems),
        "confident": sum(max(wrong[n].values(), default=0) >= len(graded[n]) / 2 for n in graded) / len(problems),
        "unread": sum(v.extracted is None for v in verdicts) / len(verdicts),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--problems", type=int, default=16, help="of each family and level")
    parser.add_argument("--families", default=",".join(FAMILIES))
    parser.add_argument("--levels", default="easy,medium,hard")
    parser.add_argument("--max-new-tokens", type=int, default=16)
    parser.add_argument("--samples", type=int, default=8, help="1 is greedy")
    parser.add_argument("--temperature", type=float, default=0.8)
    parser.add_argument("--output", type=Path, help="JSON lines: every completion with its verdict")
    given = parser.parse_args()
    policy = PolicySettings(path=given.model)
    settings = RolloutSettings(
        engine=TransformersEngineSettings(batch_size=64),
        samples=given.samples,
        temperature=given.temperature if given.samples > 1 else 0.0,
        max_new_tokens=given.max_new_tokens,
        prompt_template=TEMPLATE,
    )
    model, tokenizer = load_model(policy), load_tokenizer(policy)
    print(f"{'family':12s} {'level':8s} success  pairs  confident  unread  tokens/answer", flush=True)
    with Verifier() as verifier:
        for name in given.families.split(","):
            for level in given.levels.split(","):
                problems = generate_problems("train", given.problems, seed=0, families=[name], levels=[Level(level)])
                completions, _ = sample_rollouts(problems, settings, model=model, tokenizer=tokenizer, seed=0)
                verdicts = verifier.verify(requests_for(problems, completions))
                found = summarize(problems, verdicts)
                tokens = sum(len(c.token_ids) for c in completions) / len(completions)
                shares = "  ".join(f"{found[key]:7.2f}" for key in ("success", "pairs", "confident", "unread"))
                print(f"{name:12s} {level:8s} {shares}  {tokens:6.1f}", flush=True)
                if given.output:
                    by_id = {problem.id: problem for problem in problems}
                    with given.output.open("a", encoding="utf-8") as file:
                        for completion, verdict in zip(completions, verdicts, strict=True):
                            asked = by_id[completion.problem_id]
                            row = [asked.problem, asked.answer, completion.text, verdict.kind, verdict.extracted]
                            file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
