"""Soil that freezes: the record, the laws, the model, and their training and judging."""
