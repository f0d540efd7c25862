"""Providers: one module a protocol, found by entry points, the built-in ones too."""
