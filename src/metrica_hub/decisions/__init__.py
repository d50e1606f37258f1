"""Pure rules and values: no loop, clock, disk, chance or network.

fleet_state   the values that the hub holds and shows
intake        bytes of one delivery -> what was said, or why it can't be read
plan          a batch of what was said -> what to write
presence      which word about a device's connection prevails
listening     whether the hub itself hears what there is to hear
silence       whether a device is gone that says no word of its end
flapping      whether a device comes and goes too often
claims        whether two machines go by one name
attendance    what is heard of a device, and the verdict on it
access        roles, tokens, who asks
failures      how many wrong tokens an address may try
seats         how many requests may be under way at once
trail         who did what, as a chain
webhooks      to whom events are told, in which words, and when again
repeats       requests that come again
reading       what of a commit concerns the hub
outcome       what became of a device in a rollout, and what keeps it from beginning
progress      how far a rollout is, in the memory of the hub that leads
steering      a person's word about a rollout
rollout_view  a rollout as people and programs see it
flow          when to stop reading from the broker, and when to go on
"""
