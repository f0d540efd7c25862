"""Automatic reviewers of images, each in a process of its own: what it does or does not cannot touch a run."""
