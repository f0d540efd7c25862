"""Copies of chosen images in the formats that other programs read."""
