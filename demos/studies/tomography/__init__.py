"""Hydraulic tomography: pumping tests in an aquifer with layers and a fault."""
