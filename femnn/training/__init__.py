"""Minimising a functional over weights."""
