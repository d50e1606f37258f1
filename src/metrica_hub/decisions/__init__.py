"""Pure rules and values: no loop, clock, disk, chance or network.

fleet_state   the values that the hub holds and shows
intake        bytes of one delivery -> what was said, or why it can't be read
plan          a batch of what was said -> what to write
presence      which word about a device's connection prevails
flow          when to stop reading from the broker, and when to go on
"""
