"""Runs on every Pi: one asyncio process that converges the device towards a commit, or goes back by itself.

decisions   pure: what to do, from what was observed; takes ``now``, touches nothing
tasks       loops: when to look, and in which order effects happen; each declares the Protocols it needs
adapters    edges: Git, Compose, disk, ledger, bus, clock; they know nothing of tasks, nor of each other
main        who is wired to whom
"""
