"""A law inside the PDE, and an encoder of attributes before it."""
