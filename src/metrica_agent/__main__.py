"""``python -m metrica_agent``."""

from metrica_agent.main import main

if __name__ == "__main__":
    main()
