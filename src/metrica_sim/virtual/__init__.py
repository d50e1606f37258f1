"""A world in virtual time: the agent's own code against simulated Git, engine, disk, clock, network, bus and hub.

Everything in it comes from one seed: a world that breaks a promise can be seen again (docs/reference/faults.md).

main       ``python -m metrica_sim.virtual``: its command line
loop       an event loop that jumps, and processes that can be killed at any operation
world      who lives in a world
faults     what will happen, drawn from the seed
mischief   how it is done
operators  who pushes what
history    the fleet repository: commits that are good or bad in a known way
git        remotes and mirrors
signers    who has signed a commit, and who may
machine    a device: disk, power, clock, and the real agent on it
engine     its containers
book       the real ledger file, watched
bus, hub   a broker; the real hub's consumer on a database of its own
witness    what must hold on a device at any time
settling   what must have come about when all is mended
story      what happened
"""
