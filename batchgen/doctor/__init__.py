"""Examines accounts before anything is paid."""
