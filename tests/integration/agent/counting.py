"""A process that counts for ever: each number is remembered and told in one record. To be killed by a test.

python -m tests.integration.agent.counting <folder> <port> [<pause between numbers in seconds>]
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from tests.integration.agent.reporting import device
from tests.unit.agent.adapters.ledgers import remembering, saying, status

from metrica_agent.adapters.bus import Patience


async def count(folder: Path, port: int, pause_s: float) -> None:
    async with device(folder, port, patience=Patience(will_delay_s=1)) as pi:
        while True:
            number = int(pi.ledger.memory().accepted or "0", 16) + 1
            seqs = await pi.ledger.record(pi.clock.stamp(), memory=remembering(number), sayings=[saying(f"{number}")])
            print(number, seqs[0], pi.ledger.stream, flush=True)  # noqa: T201
            if number % 5 == 0:
                await pi.ledger.heartbeat(pi.clock.stamp(), status())
            await asyncio.sleep(pause_s)


if __name__ == "__main__":
    asyncio.run(count(Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]) if len(sys.argv) > 3 else 0.0))
