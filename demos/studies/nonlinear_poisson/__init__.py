"""A law kappa(u) from observations at stations, with and without noise."""
