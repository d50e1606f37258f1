"""``scripts/demo``: a whole fleet on one machine, and a play on it that can fail.

main        the order of things: look, build, show, play, clear away
console     what is printed
children    processes that end when we do, whatever happens
postgres    an embedded Postgres, without a new user and without touching the rights of anybody's folders
services    the broker, the hub, the web server of the repository, the simulated devices
person      the operator: a key, who may sign, a ``metrica`` that finds the hub
repository  the fleet repository: what is good, what is bad, and the commits
githttp     ``git http-backend`` behind a small web server
engine      one device on real containers, where a Docker engine answers
facts       what Postgres says
play        the play without a person, and what each act must show
keys        the play with a person
trouble     one sentence, and where to read on
"""
