"""TRL's DPO script with two names changed, both marked `SAGE:`. Runs offline on a CPU in under a minute.

    python examples/dpo_to_sage.py --steps 20
    python examples/dpo_to_sage.py --model Qwen/Qwen2.5-1.5B-Instruct --data pairs.jsonl --learning-rate 1e-6 --lora

`--data` is a preference data set in TRL's format, one row a line: `prompt`, `chosen`, `rejected` as text or messages.
An optional column `success_rate` in [0, 1] gives each pair's difficulty; without it, it is estimated.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from datasets import load_dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer

from sage_dpo import SAGEConfig, SAGETrainer  # SAGE: was `from trl import DPOConfig, DPOTrainer`
from sage_dpo.gym.policy import bundled_policy_path


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="gym:S", help="folder, hub id, or gym:S for the policy in the package")
    parser.add_argument("--data", type=Path, default=Path(__file__).with_name("preferences.jsonl"))
    parser.add_argument("--output", type=Path, default=Path("runs/dpo_to_sage"))
    parser.add_argument("--steps", type=int, default=20, help="optimizer steps")
    parser.add_argument("--learning-rate", type=float, default=1e-4, help="1e-4 is for the gym's 0.35 M parameters")
    parser.add_argument("--lora", action="store_true", help="train low-rank adapters instead of all weights")
    return parser.parse_args()


def main() -> None:
    options = parse_arguments()
    path = str(bundled_policy_path("S")) if options.model == "gym:S" else options.model
    model = AutoModelForCausalLM.from_pretrained(path)
    tokenizer = AutoTokenizer.from_pretrained(path)
    dataset = load_dataset("json", data_files=str(options.data), split="train")
    has_gpu = torch.cuda.is_available()

    args = SAGEConfig(  # SAGE: was DPOConfig
        output_dir=str(options.output),
        max_steps=options.steps,
        per_device_train_batch_size=16,  # pairs trained on; 1 / keep_ratio times as many are candidates
        learning_rate=options.learning_rate,
        beta=0.1,
        max_length=4096,  # longer pairs are excluded and counted, never cut
        bf16=has_gpu and torch.cuda.is_bf16_supported(),
        use_cpu=not has_gpu,
        gradient_checkpointing=has_gpu,
        logging_steps=5,
        save_strategy="no",
        report_to="none",
        keep_ratio=0.5,
    )
    trainer = SAGETrainer(  # SAGE: was DPOTrainer
        model=model,
        args=args,
        train_dataset=dataset,
        processing_class=tokenizer,
        peft_config=LoraConfig(r=16, target_modules="all-linear", task_type="CAUSAL_LM") if options.lora else None,
    )
    trainer.train()
    trainer.save_model(str(options.output / "policy"))

    counts = trainer.token_counts
    print(f"excluded: {trainer.exclusions['train'] or 'none'}")
    print(f"pairs:    {counts.trained_pairs} trained of {counts.candidate_pairs} candidates")
    print(f"tokens:   {counts.trained} trained, {counts.scored} scored, {counts.reference} reference")
    print(f"policy:   {options.output / 'policy'}")
    print(f"why each pair was kept: {options.output / 'candidates'}/*.parquet")


if __name__ == "__main__":
    main()
