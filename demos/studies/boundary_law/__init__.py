"""A heat transfer coefficient h(T) on the boundary from thermometers inside."""
