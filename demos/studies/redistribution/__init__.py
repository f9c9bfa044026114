"""Redistribution of water after infiltration: records, laws with memory, model and judging."""
