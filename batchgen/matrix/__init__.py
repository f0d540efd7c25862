"""From a manifest to its jobs."""
