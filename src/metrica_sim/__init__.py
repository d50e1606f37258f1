"""Simulated devices: the real agent's tasks, decisions, ledger, Git and bus on machines that do not exist.

main           ``metrica-sim``: its command line
world          many devices in one process: cut, mend, break, list
device         one device: the real parts and the simulated ones, wired by ``metrica_agent.tasks.device``
engine         a container engine that obeys the same facts as the real one
containers     the life of a container, by the clock
composefile    compose.yaml as ``docker compose config --format json`` shows it
interpolation  ``${VARIABLES}`` in it
probes         the role's own checks, asked of simulated containers
network        a device's network, which can be cut: a relay for the bus, a gate for Git
vitals         what such a machine measures
crowd          ``metrica simulate``: thousands of devices that only tell
demo           ``scripts/demo``: a whole fleet on one machine, and the play on it
"""
