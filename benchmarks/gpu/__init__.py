"""Benchmarks for a GPU: `python -m benchmarks.gpu.NAME --json PATH`.

The model has the shape of Qwen2.5-1.5B and random weights in bfloat16; no download. Without a GPU a toy model runs in
its place, which shows that the scripts work and nothing else.
"""
