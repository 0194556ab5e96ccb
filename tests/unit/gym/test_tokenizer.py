"""The gym's tokenizer: round trip, chat template, saving."""

from __future__ import annotations

from pathlib import Path

from transformers import AutoTokenizer

from sage_dpo.gym.suites import load_suite
from sage_dpo.gym.tokenizer import ASSISTANT, END, USER, build_tokenizer
from sage_dpo.gym.world import generate_problems


def test_text_round_trips_without_unknown_words() -> None:
    tokenizer = build_tokenizer()
    for problem in generate_problems("train", 100, seed=0) + load_suite("longer"):
        text = f"{problem.problem} {problem.solution}"
        ids = tokenizer.encode(text)
        assert tokenizer.unk_token_id not in ids
        assert len(ids) == len(text.split())
        assert tokenizer.decode(ids) == text


def test_prompt_is_a_prefix_of_the_conversation() -> None:
    tokenizer = build_tokenizer()
    problem = generate_problems("train", 1, seed=0)[0]
    user = {"role": "user", "content": problem.problem}
    answer = {"role": "assistant", "content": problem.solution}
    prompt = tokenizer.apply_chat_template([user], add_generation_prompt=True, return_dict=False)
    whole = tokenizer.apply_chat_template([user, answer], return_dict=False)
    assert whole[: len(prompt)] == prompt
    assert prompt[0] == tokenizer.convert_tokens_to_ids(USER)
    assert prompt[-1] == tokenizer.convert_tokens_to_ids(ASSISTANT)
    assert whole[-1] == tokenizer.eos_token_id == tokenizer.convert_tokens_to_ids(END)
    assert tokenizer.decode(whole[len(prompt) :], skip_special_tokens=True) == problem.solution


def test_saved_tokenizer_loads_the_same(tmp_path: Path) -> None:
    tokenizer = build_tokenizer()
    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    text = "Tom has 12 apples . He finds 7 more . \\boxed{ 19 }"
    assert again.get_vocab() == tokenizer.get_vocab()
    assert again.encode(text) == tokenizer.encode(text)
    assert again.decode(again.encode(text)) == text
    assert again.chat_template == tokenizer.chat_template
    assert again.pad_token_id != again.eos_token_id
