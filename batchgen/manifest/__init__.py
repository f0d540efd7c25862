"""From a YAML file to a checked `Manifest`, or to every problem it has, each with its place."""
