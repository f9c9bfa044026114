"""A diffusivity kappa(x, y) from noisy observations."""
