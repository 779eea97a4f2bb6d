"""Sightline turns a folder, a query or a competition into a trusted image classifier."""

__version__ = "0.1.0"
