"""Measurements, as ratios between methods that run side by side on one machine."""
