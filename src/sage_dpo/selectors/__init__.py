"""Selectors: which candidate pairs of one optimizer step are trained on. One small file each, one registry."""
