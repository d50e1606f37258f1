"""Edges towards people and programs. Knows the values, asks through Protocols; no database, no broker, no tasks.

app            the aiohttp application: route table, middlewares
routing        a route as a value
auth           who asks, and whether they may
sessions       /login, /logout
audit          who did what
tokens         /api/v1/tokens, /api/v1/whoami
webhooks       /api/v1/webhooks
repeats        Idempotency-Key
openapi        /api/v1/openapi.json
bodies         what comes in a request
reads          what the web asks of the database
board          the fleet as last seen, in memory; rings of what changed
devices        /api/v1/devices
events         /api/v1/events
rollouts       /api/v1/rollouts, /api/v1/head, /api/v1/key
live           server-sent events
pages          the dashboard, for people
views          what pages say about a device: words, shapes and colours
filters        what somebody typed into the search field
vitals         /api/v1/devices/{device}/vitals
health         /healthz, /readyz
metrics        /metrics: the hub's own, and each device's from cached lines
figures        the rollout in it
series         per-device lines of /metrics
cursors        opaque cursors and query parameters
problem        errors as problem+json (RFC 9457)
assets         static files
"""
