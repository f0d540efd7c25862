"""Definitions of image APIs as data: their requests as templates, what is read out of their answers by selectors."""
