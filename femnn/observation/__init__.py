"""What is observed of a model, data of it, misfits and scores."""
