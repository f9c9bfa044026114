"""Trained networks as files, tables and UFL expressions."""
