"""Loops: when something is done. Each declares at its top what it needs of the edges; ``main`` supplies it."""
