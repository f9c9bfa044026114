"""What data say of a law and how sure it is: priors, evidence, posteriors."""
