"""Firedrake without networks: private copies, boundary values, derivatives, kept forms."""
