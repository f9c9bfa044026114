"""Reference problems of Bayesian inversion, whose posteriors or costs are known."""
