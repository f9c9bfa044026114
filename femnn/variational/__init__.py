"""Solving with networks of the unknown inside: problem, state, solver, derivatives."""
