"""An initial state and a law of friction together, from tide gauges: twin experiment."""
