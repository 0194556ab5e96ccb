"""The method's formulas as pure functions: arrays or tensors in, arrays or tensors out; no models, files or clocks."""
