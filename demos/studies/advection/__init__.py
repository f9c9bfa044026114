"""A transport term that a diffusion equation lacks: the model, and its training."""
