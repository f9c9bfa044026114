"""Steps in time: pointwise equations, splitting, Runge-Kutta steps, adaptive lengths."""
