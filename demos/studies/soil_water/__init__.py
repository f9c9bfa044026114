"""Water in soil columns: the evaporation experiment, laws, the model, its rival, and judging."""
