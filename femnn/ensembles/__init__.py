"""Losses that are sums over many models, spread over groups of ranks."""
