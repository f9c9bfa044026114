"""The PDE as a layer of torch, and torch computations on the tape."""
