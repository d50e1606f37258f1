"""``metrica``: what an operator types.

main      the commands
trouble   how one ends that can't do what it was asked, and with which exit code
checkout  a fleet repository on disk
hub       the hub's REST API
fleet     devices and events, for people
table     rows and columns for people
crowd     simulated devices that load a broker and a hub
"""
