"""``python -m metrica_sim.virtual`` simulates worlds."""

from metrica_sim.virtual.main import main

main()
