"""Servers that speak, and misbehave, as the providers do; started by tests on 127.0.0.1."""
