"""Releases on disk: the one place that owns durability of files.

The state directory, as far as it is ours:

    releases/<digest>/   files/ (the role's folder), compose.json (the rendered model), release.json, MANIFEST
    content/<digest>     what services mount from releases, by the digest of what is mounted: hard links
    current              -> releases/<digest>; one rename switches it
    data/<role>/         what workloads write; nothing here ever touches what is in it
    incoming/            work in progress, and what is on its way out; cleared at the start

The order that makes a power cut harmless (RELIABILITY.md section 3): files are written and synced, then their
directories, then the contents are renamed into place, and only then the release: one that is there is whole.
"""

from metrica_agent.adapters.releases.store import Releases

__all__ = ["Releases"]
