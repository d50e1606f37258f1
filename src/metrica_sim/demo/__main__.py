"""``python -m metrica_sim.demo`` is what ``scripts/demo`` runs once everything is installed."""

from metrica_sim.demo.main import main

main()
