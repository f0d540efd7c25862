"""YAML and text files as written: decoded, with the place of every value."""
