"""``metrica``: what an operator types.

main        which commands there are, and how one ends
trouble     how one ends that can't do what it was asked, and with which exit code
options     what several commands are told
output      data to standard output, the rest to standard error; questions

access      hub and token: login, context, whoami, version, check, key
devices     devices, device, top, wait, open
enrolling   device add, revoke, identity
events      events
commanding  sync, restart, redeploy, logs, reboot, safe-mode, hold, collect, explain, accept-history; commands
rollout     rollout status, devices, pause, resume, abort, history
stop        stop, resume
repository  lint: what needs no hub
planning    plan, diff: what a change would do, before it is pushed
tokens      token create, list, revoke
auditing    audit, audit verify
shell       completion
simulation  simulated devices that load a broker and a hub

contexts    hubs and tokens that are kept
hub, sse    the hub's REST API and its streams
checkout    a fleet repository on disk
reading     what its Compose files read besides themselves
snapshots   two states of it, as commits
rehearsal   what a device would make of a commit, by its own code
outcomes    what a change comes to
images      what images weigh, by their registries
signing     an operator's own signature
fleet       devices and events, for people
progress    how far something is, in one line
watch       what is drawn again and again
look, table colours and shapes, rows and columns
values      what answers are made of
"""
