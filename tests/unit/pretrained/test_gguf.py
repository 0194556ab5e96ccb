"""A GGUF file converted: the same weights, tokens and template, and what cannot be read."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from sage_dpo.errors import ConfigError
from sage_dpo.pretrained.gguf import convert, read_header

pytest.importorskip("gguf", reason="the package gguf (extra smollm2) is not installed")
from tests.support.tiny_gguf import make_tiny_llama, write_tiny_gguf

INSTALL = "install it"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.gguf"
    write_tiny_gguf(path, make_tiny_llama())
    return path


def test_the_header_tells_architecture_and_size(source: Path) -> None:
    header = read_header(source, install=INSTALL)
    model = make_tiny_llama()
    assert (header.architecture, header.pre_tokenizer) == ("llama", "smollm")
    assert header.parameters == model.num_parameters()
    assert header.converted_bytes == 4 * model.num_parameters()


def test_the_converted_folder_is_the_model_that_the_file_holds(source: Path, tmp_path: Path) -> None:
    convert(source, tmp_path / "out", read_header(source, install=INSTALL))
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert "quantization_config" not in loaded.config.to_dict()
    loaded.save_pretrained(tmp_path / "again")  # what a model read from GGUF refuses
    ids = torch.arange(3, 40)[None]
    with torch.no_grad():
        torch.testing.assert_close(loaded(ids).logits, make_tiny_llama()(ids).logits)


def test_the_tokenizer_takes_digits_apart_and_keeps_the_template(source: Path, tmp_path: Path) -> None:
    convert(source, tmp_path / "out", read_header(source, install=INSTALL))
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer.tokenize("the 12") == ["the", "Ġ", "1", "2"]
    assert tokenizer.decode(tokenizer.encode("the  12\n\n3")) == "the  12\n\n3"
    chat = tokenizer.apply_chat_template(
        [{"role": "user", "content": "the"}], tokenize=False, add_generation_prompt=True
    )
    assert chat == "<|im_start|>the<|im_end|><|im_start|>"
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|im_end|>", "<|im_end|>")


def test_an_unknown_architecture_is_named_with_what_serves(tmp_path: Path) -> None:
    path = tmp_path / "other.gguf"
    write_tiny_gguf(path, make_tiny_llama(), architecture="rwkv9")
    with pytest.raises(ConfigError, match=r"other\.gguf holds a model of architecture 'rwkv9', expected llama; give a"):
        read_header(path, install=INSTALL)


@pytest.mark.parametrize("content", [b"", b"no GGUF at all, only text", b"GGUF\x03\x00\x00\x00" + b"\xff" * 64])
def test_a_damaged_file_is_one_line(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "damaged.gguf"
    path.write_bytes(content)
    with pytest.raises(
        ConfigError, match=r"damaged\.gguf is no GGUF file that can be read \(.*\); get it again"
    ) as caught:
        read_header(path, install=INSTALL)
    assert "\n" not in str(caught.value)
