"""Providers: a wire protocol each. Found by entry points, the built-in one too."""
