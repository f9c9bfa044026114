"""NeuralCoefficient, what it means in a form, and the values of functionals."""
