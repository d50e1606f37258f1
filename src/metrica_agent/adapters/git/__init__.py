"""The agent's Git edge: what a remote's branch points at, a mirror of it, and files out of the mirror.

| module | runs in | knows |
| --- | --- | --- |
| ``mirror`` | agent | ``GitMirror``, the only thing that others use |
| ``poll``, ``ls_refs`` | agent, a thread | one question to one remote, without dulwich |
| ``bundles`` | both | the head of a file of ``git bundle``, which is a remote as well |
| ``nursery`` | agent | a child's birth, deadlines, rest and death |
| ``orders`` | both | the order and the answer, and how they stand on a pipe |
| ``leftovers`` | both | what an interrupted fetch leaves; the mirror's lock |
| ``remote``, ``ssh``, ``troubles`` | both | addresses without credentials; the ssh binary; what went wrong, in words |
| ``child`` | child | limits, an order, its answer; whether it may wait for the next |
| ``fetch``, ``transports`` | child | bytes from a remote into the mirror; how the histories stand to each other |
| ``packs`` | child | how large a pack becomes, before it is unpacked |
| ``trust``, ``signatures`` | child | who has signed a commit, and whether they might |
| ``store`` | child | the repository on disk: leftovers, lock, what is complete, what comes before what |
| ``trees``, ``names`` | child | files out of a commit, nothing else; which names and links may be |

A pack is hostile input; so all that parses one lives in the child, under bounds on time, memory and file size.
"""

from typing import TYPE_CHECKING

from metrica_agent.adapters.git.orders import Bounds, Exported, SshOptions

if TYPE_CHECKING:
    from metrica_agent.adapters.git.mirror import GitMirror, Isolation


def __getattr__(name: str) -> object:
    """Import the agent's side when it is asked for: the child does without asyncio."""
    if name in {"GitMirror", "Isolation"}:
        from metrica_agent.adapters.git import mirror  # noqa: PLC0415 see above

        found: object = getattr(mirror, name)
        return found
    raise AttributeError(name)


__all__ = ["Bounds", "Exported", "GitMirror", "Isolation", "SshOptions"]
