"""Loops and orders of effects. A task calls decisions with what adapters saw and hands the answer to adapters."""
