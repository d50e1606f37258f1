"""The hub: what devices say, kept in Postgres and shown to people and programs.

main        composition root: settings -> adapters -> tasks and web, in one TaskGroup
settings    ``hub.toml`` and environment -> frozen values
decisions   pure: what a batch means, which presence prevails, when to pause
tasks       loops: consume the bus, follow the branch, watch for changes
adapters    edges: the bus (MQTT 5), the store (Postgres), the mirror (Git)
web         edges towards people: REST, server-sent events, metrics, the fleet page
errors      what can go wrong, by what happens next
"""
