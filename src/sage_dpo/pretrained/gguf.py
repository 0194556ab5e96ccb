"""A GGUF file -> a folder that transformers loads like any other: float32 weights, tokenizer, chat template."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sage_dpo.errors import ConfigError

ARCHITECTURES = ("llama",)
"""Those tried. transformers reads more of them; whether their weights survive the way was not looked at."""

_ARCHITECTURE, _PRE_TOKENIZER = _TEXTS = ("general.architecture", "tokenizer.ggml.pre")
_BYTES_PER_WEIGHT = 4
_DIGITS_APART = ("smollm",)
"""Pre-tokenizers (`tokenizer.ggml.pre`) that take digits apart, which transformers does not read from GGUF."""


@dataclass(frozen=True, slots=True)
class Header:
    """What a GGUF file says about itself.

    Attributes:
        architecture: `general.architecture`.
        pre_tokenizer: `tokenizer.ggml.pre`, empty if it is not stated.
        parameters: number of weights.
    """

    architecture: str
    pre_tokenizer: str
    parameters: int

    @property
    def converted_bytes(self) -> int:
        """Size of the weights in float32, which is nearly all of the converted folder."""
        return self.parameters * _BYTES_PER_WEIGHT


def read_header(path: Path, *, install: str) -> Header:
    """Read a GGUF file's header.

    Args:
        path: of the file.
        install: how to get the package `gguf`, for the error message.

    Raises:
        ConfigError: the package is absent, the file is damaged, or its architecture is not one of `ARCHITECTURES`.
    """
    try:
        from gguf import GGUFReader
    except ImportError:
        raise ConfigError(
            f"{path.name} is a GGUF file, and the package gguf that reads it is absent; {install}"
        ) from None
    try:
        reader = GGUFReader(path)
        texts = {key: reader.fields[key].contents() for key in _TEXTS if key in reader.fields}
    except OSError:
        raise
    except Exception as error:  # a damaged header ends in whichever error its numbers lead to
        raise ConfigError(f"{path} is no GGUF file that can be read ({error}); get it again") from None
    architecture = str(texts.get(_ARCHITECTURE, "unstated"))
    if architecture not in ARCHITECTURES:
        raise ConfigError(
            f"{path} holds a model of architecture {architecture!r}, expected {' or '.join(ARCHITECTURES)}; give a "
            "folder saved with save_pretrained instead"
        )
    return Header(architecture, str(texts.get(_PRE_TOKENIZER, "")), sum(int(t.n_elements) for t in reader.tensors))


def convert(path: Path, folder: Path, header: Header) -> None:
    """Write the model of a GGUF file to `folder` as transformers saves it, in float32.

    Raises:
        ConfigError: transformers cannot read it.
        OSError: the folder cannot be written.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source: dict[str, Any] = {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name}
    try:
        tokenizer = AutoTokenizer.from_pretrained(**source)
        model = AutoModelForCausalLM.from_pretrained(**source, dtype="float32")
    except Exception as error:  # weights that miss or do not fit the header end in errors of several libraries
        raise ConfigError(f"{path} cannot be converted ({error}); get it again") from None
    if header.pre_tokenizer in _DIGITS_APART:
        _take_digits_apart(tokenizer)
    _without_quantization(model).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _without_quantization(model: Any) -> Any:
    """Return the same weights in a model that knows nothing of GGUF; a model loaded from it refuses to be saved."""
    config = model.config.__class__.from_dict(
        {key: value for key, value in model.config.to_dict().items() if key != "quantization_config"}
    )
    plain = type(model)(config)
    plain.load_state_dict(model.state_dict())
    plain.tie_weights()
    return plain


def _take_digits_apart(tokenizer: Any) -> None:
    from tokenizers import pre_tokenizers

    backend = tokenizer.backend_tokenizer
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
