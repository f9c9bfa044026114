"""A reaction in a flow: the model, its training, and the figure."""
