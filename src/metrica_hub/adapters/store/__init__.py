"""Postgres: the only package that knows asyncpg.

pool        connections, and what their errors mean
migrate     the schema, numbered plain SQL, forward only
writer      one transaction a batch
partitions  the parts of tables that grow
keeper      partitions made and dropped, heartbeats summed up
rows        records -> rows
attendance  the verdicts of the hub that leads
rollouts    how far each commit is, and what became of each device
reader      what the API, the page and the metrics ask
access      tokens and sessions
trail       who did what
webhooks    who is told of events, and how far
repeats     what was answered to requests that may come again
changes     the database's wake-up call (LISTEN)
queries     SQL where it reads better in a file of its own
"""
