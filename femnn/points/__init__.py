"""Where a network stands: points of cells, facets and nodes, and a network there."""
