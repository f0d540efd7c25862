"""Receives a gateway's callbacks."""
