"""Builds the environment that femnn runs in, with nothing but the Python standard library.

``python3 -m install build`` builds or completes it, ``python3 -m install path`` prints its folder.
"""
