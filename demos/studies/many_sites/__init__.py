"""Soil heat at many stations: the records, laws of diffusivity, the model, training, judging."""
