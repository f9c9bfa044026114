"""Rivers: the record, laws of flow, runoff, the model, training, baselines and judging."""
