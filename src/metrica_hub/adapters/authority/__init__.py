"""The fleet's certificates, by ``cryptography``, which nothing else here knows.

| module | does |
| --- | --- |
| ``signing`` | the authority: signs, and lists what it took back |
| ``own`` | the hub's own certificate for the broker: reads it, and has it signed anew |
| ``files`` | writes a file whole |
"""
