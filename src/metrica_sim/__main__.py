"""``python -m metrica_sim`` is ``metrica-sim``."""

from metrica_sim.main import main

main()
