"""A torch module at many points.  Needs torch and numpy only."""
