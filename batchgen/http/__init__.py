"""HTTP: the only way out to the network."""
