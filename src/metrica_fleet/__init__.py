"""The language that devices and hub share: pure values, no loop, clock, disk, chance or network.

identity       what a name may look like
errors         the exception family and its three consequences
records        what a device says once and for all: heartbeats and events, numbered (stream, seq)
messages       what is said anew and replaces what was said before: presence, status, stored, head
topics         every MQTT topic, both directions, and who may write it
codec          bytes <-> messages
retry          how long to wait before trying again, chance handed in
policies       health, limits and checks of a release
definition     the fleet repository, from a mapping of paths to bytes
toml_lines     TOML with line numbers; toml_reading: tables to values, problems told with file, line and key
problems       what is wrong with a file that a person wrote
configuration  settings files and the environment, for both sides
logs           log lines, alike on both sides: the one module here that is not pure
"""

__version__ = "0.1.0"
