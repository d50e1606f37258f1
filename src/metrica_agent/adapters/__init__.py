"""Edges to the world. Each is tested against the real thing."""
