"""Pure decisions over frozen values. Nothing here touches loop, clock, disk, chance or network."""
