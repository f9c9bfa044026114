"""Torch modules for laws.  Needs torch only."""
