"""Pretrained policies from GGUF files: converted once to a transformers folder, and kept in a cache.

    gguf <- cache <- smollm2

`smollm2.py` finds SmolLM2-135M-Instruct in an installed Python package, so that no model hub is needed.
"""
