"""Mixing in lakes: the records, laws of eddy diffusivity, the model, training and judging."""
