"""Excitable tissue: the membrane, the monodomain equation, training, and errors of a wave."""
