"""Checks accounts before anything is paid."""
