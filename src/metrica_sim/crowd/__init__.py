"""``metrica simulate``: thousands of devices that really connect, with the agent's own outbox and telemetry code.

They deploy nothing: what is simulated here is what reaches the broker and the hub, not what a device does with Git and
containers (``metrica_sim.device``). What each device tells is also written into its diary, so that what arrived can be
compared with what was said.

plan      what to simulate, how long, and what goes wrong meanwhile
simulate  the command's side: processes, progress, report
main      one process: a part of the crowd, told by its standard output
crowd     many devices: switched on over a while, cut off, rebooted, and in the end waited for
member    one device: ledger, report task, bus; a clock and a network of its own
workload  what runs on a device, as it says on each connection and when that changes
diary     what the devices of one process told, in order
tally     where a crowd stands, in numbers
poison    a client that publishes what no device would
"""
