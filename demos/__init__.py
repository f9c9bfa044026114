"""Short examples, each a script; the larger ones are packages in ``studies``."""
