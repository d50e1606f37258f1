"""Postgres: the only package that knows asyncpg.

pool        connections, and what their errors mean
migrate     the schema, numbered plain SQL, forward only
writer      one transaction a batch
partitions  the parts of tables that grow
keeper      partitions made and dropped, heartbeats summed up
rows        records -> rows
reader      what the API, the page and the metrics ask
changes     the database's wake-up call (LISTEN)
queries     SQL where it reads better in a file of its own
"""
