"""Edges towards people and programs. Knows the values, asks through Protocols; no database, no broker, no tasks.

app            the aiohttp application: route table, middlewares
routing        a route as a value
reads          what the web asks of the database
board          the fleet as last seen, in memory; rings of what changed
devices        /api/v1/devices
events         /api/v1/events
live           server-sent events
page           the fleet page
health         /healthz, /readyz
metrics        /metrics: the hub's own, and each device's from cached lines
series         per-device lines of /metrics
cursors        opaque cursors and query parameters
problem        errors as problem+json (RFC 9457)
assets         static files
"""
