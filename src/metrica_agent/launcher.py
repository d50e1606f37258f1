#!/usr/bin/python3 -I
"""Starts the agent: the version on trial, the one that has proven itself, or whatever still can be started.

systemd starts this file, a copy of it in /opt/metrica that no update touches, and it becomes the agent (execve), so it
costs nothing while the agent runs. It is one file, and needs the standard library alone: it must start where nothing
else does. While a version is on trial a small process stays beside the agent, and ends one that has not proven itself
in time: a version that can't judge must not be its own judge.

    /opt/metrica/launcher.py                this file
    /opt/metrica/agent                      what was installed by hand: a folder, or a link to one; the last resort
    /opt/metrica/versions/<name>/           a version: a venv; ``complete`` in it says that all of it is on the disk
    /opt/metrica/versions/choice.json       what is to run, what is on trial, what was given up and why
    /opt/metrica/versions/current           leads to what was started last; for people

A trial ends well when the agent says so (docs/decisions/0034). It ends badly when the version can't be started, was
started twice in one boot, or five times in all, without that, or has run out of its time. Then the version before runs
again, and what was given up is not tried again. A version that has proven itself, and later does not live for long six
times in a row, gives way to the one before it as well.

Agents of all times read and write ``choice.json``: a key never changes its meaning, and unknown ones stay as they are.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

BASE = ""
"""The name of what was installed by hand."""
STARTS_A_BOOT = 2
"""Of a trial: one that crashes must be gone before it counts as a crash loop of the device."""
STARTS = 5
"""Of a trial, over all boots: power may go in it."""
UNSTEADY_STARTS = 6
"""Of a version that had proven itself, in one boot, none of them followed by steadiness."""
GRACE_S = 60.0
"""What an agent has beyond the time of its trial to say itself what came of it."""
WITHIN_S = 600.0
LOOK_S = 30.0
REFUSED_KEPT = 20
VERSIONS = "METRICA_VERSIONS"
"""Tells the agent where its versions are, and so that it can be changed."""
STARTED = "METRICA_VERSION"
"""Tells the agent which of them it is."""

Choice = dict[str, Any]
"""What is in ``choice.json``: a plain dictionary, so that keys of later agents live on."""


def chosen(choice: Choice, there: frozenset[str], boot_id: str, now_s: float) -> tuple[Choice, list[str]]:
    """Return what to remember, and what to start: the first that can be.

    Args:
        choice: what is remembered.
        there: the versions that are complete, ``BASE`` among them where it is there.
        boot_id: the kernel's.
        now_s: since the boot.
    """
    after = dict(choice)
    trial = table(after.get("trial"))
    if trial:
        why = _given_up(trial, there, boot_id, now_s)
        if why is None:
            after["trial"] = _counted(trial, boot_id, now_s)
            return after, [str(trial["name"]), *_others(after, there)]
        after = refused(after, str(trial.get("name")), *why)
    starts = table(after.get("starts"))
    count = int(starts["count"]) if starts.get("boot_id") == boot_id else 0
    steady, before = str(after.get("steady") or BASE), after.get("before")
    fallback = next((one for one in (before, BASE) if one is not None and one != steady and one in there), None)
    if count >= UNSTEADY_STARTS and fallback is not None:
        after = refused(after, steady, "not-steady", f"it was started {count} times without becoming steady")
        after |= {"steady": fallback, "before": steady}
        count = 0
    after["starts"] = {"boot_id": boot_id, "count": count + 1}
    return after, _others(after, there)


def _given_up(trial: Choice, there: frozenset[str], boot_id: str, now_s: float) -> tuple[str, str] | None:
    """Return why a version is not started again on trial."""
    starts = int(trial.get("starts", 0))
    same = trial.get("boot_id") == boot_id
    here = int(trial.get("boot_starts", 0)) if same else 0
    within_s = float(trial.get("within_s", WITHIN_S))
    if trial.get("name") not in there:
        return "version-lost", "it is not on the disk any more"
    if same and here and now_s > float(trial.get("began_s", 0.0)) + within_s + GRACE_S:
        return "overdue", f"it did not prove itself within {within_s:g} s, and was ended"
    if here >= STARTS_A_BOOT or starts >= STARTS:
        return "not-steady", f"it was started {starts} times and never became steady"
    return None


def _counted(trial: Choice, boot_id: str, now_s: float) -> Choice:
    counted = {**trial, "starts": int(trial.get("starts", 0)) + 1}
    if trial.get("boot_id") != boot_id or not trial.get("boot_starts"):
        return {**counted, "boot_id": boot_id, "boot_starts": 1, "began_s": now_s}
    return {**counted, "boot_starts": int(trial["boot_starts"]) + 1}


def refused(choice: Choice, name: str, reason: str, message: str) -> Choice:
    """Return ``choice`` with a version that is not tried again; it is not on trial any more."""
    known = [one for one in tables(choice.get("refused")) if one.get("name") != name]
    entry = {"name": name, "reason": reason, "message": message, "told": False}
    gone = {"trial": None} if table(choice.get("trial")).get("name") == name else {}
    return {**choice, **gone, "refused": [entry, *known][:REFUSED_KEPT]}


def _others(choice: Choice, there: frozenset[str]) -> list[str]:
    """Return what may be started when nothing is on trial, the best first."""
    wanted = [str(choice.get("steady") or BASE), choice.get("before"), BASE, *sorted(there, reverse=True)]
    bad = {one.get("name") for one in tables(choice.get("refused"))}
    found = [str(one) for one in dict.fromkeys(wanted) if one is not None and one in there]
    # What was given up is better than nothing, and never in front of anything else but what is to run.
    return [*found[:1], *(one for one in found[1:] if one not in bad), *(one for one in found[1:] if one in bad)]


def table(value: object) -> Choice:
    """Return ``value`` if it is a table; an empty one otherwise."""
    return cast("Choice", value) if isinstance(value, dict) else {}


def tables(value: object) -> list[Choice]:
    """Return the tables that ``value`` lists."""
    entries = cast("list[object]", value) if isinstance(value, list) else []
    return [found for one in entries if (found := table(one))]


# --- on the disk -----------------------------------------------------------------------------------------------


def folder_of(versions: Path, name: str) -> Path:
    """Return where a version is."""
    return versions / name if name else versions.parent / "agent"


def complete(versions: Path) -> frozenset[str]:
    """Return the versions that are whole, ``BASE`` among them where something was installed by hand."""
    there = {BASE} if os.access(folder_of(versions, BASE) / "bin/python", os.X_OK) else set[str]()
    with suppress(OSError):
        there |= {
            one.name
            for one in versions.iterdir()
            if not one.is_symlink() and (one / "complete").is_file() and os.access(one / "bin/python", os.X_OK)
        }
    return frozenset(there)


def read_choice(versions: Path) -> Choice:
    """Return what is remembered; nothing where that can't be read."""
    try:
        return table(json.loads((versions / "choice.json").read_bytes()))
    except (OSError, ValueError):
        return {}


def write_choice(versions: Path, choice: Choice) -> None:
    """Remember ``choice``: after a power cut it is there as a whole, or what was there before."""
    new = versions / "choice.json.new"
    with new.open("wb") as file:
        file.write(json.dumps(choice, indent=1).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())
    new.rename(versions / "choice.json")
    sync_folder(versions)


def sync_folder(folder: Path) -> None:
    """Make what was renamed in ``folder`` last."""
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def lead_to(versions: Path, name: str) -> None:
    """Let ``current`` lead to a version; it is for people, and nothing rests on it."""
    link, new = versions / "current", versions / "current.new"
    target = name or "../agent"
    if link.is_symlink() and str(link.readlink()) == target:
        return
    new.unlink(missing_ok=True)
    new.symlink_to(target)
    new.rename(link)


# --- starting --------------------------------------------------------------------------------------------------


def watch(versions: Path, name: str, within_s: float) -> None:
    """Leave a process that ends this one when ``name`` is still on trial after its time."""
    agent = os.pidfd_open(os.getpid())
    if os.fork() == 0:
        try:
            if os.fork() == 0:
                _wait_and_end(versions, name, agent, _since_boot_s() + within_s)
        finally:
            os._exit(0)
    os.wait()
    os.close(agent)


def _wait_and_end(versions: Path, name: str, agent: int, end_s: float) -> None:
    waiting = select.poll()
    waiting.register(agent, select.POLLIN)
    while not waiting.poll(1000 * max(0.0, min(LOOK_S, end_s - _since_boot_s()))):
        if table(read_choice(versions).get("trial")).get("name") != name:
            return
        if _since_boot_s() >= end_s:
            signal.pidfd_send_signal(agent, signal.SIGKILL)
            return


def _since_boot_s() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _decided(versions: Path) -> tuple[Choice, list[str]]:
    """Decide what to start, and remember it. Whatever is in the way of that, something is started."""
    there = complete(versions)
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    choice, names = chosen(read_choice(versions), there, boot_id, _since_boot_s())
    try:
        versions.mkdir(exist_ok=True)
        write_choice(versions, choice)
    except OSError as error:
        # A trial that can't be counted is not begun; all else can be started uncounted.
        _say(f"{versions}: {error.strerror}: nothing can be remembered")
        names = _others(choice, there)
        choice = {**choice, "trial": None}
    return choice, names


def run(versions: Path, arguments: list[str]) -> str:
    """Become the agent. Returns what is in the way when nothing can be started."""
    try:
        choice, names = _decided(versions)
    except Exception as error:  # noqa: BLE001 - this file is the last that may fail: something must be started
        _say(f"{type(error).__name__}: {error}; what can be started is")
        choice, names = {}, _others({}, complete(versions))
    for name in names:
        try:
            lead_to(versions, name)
        except OSError as error:
            _say(f"{versions / 'current'}: {error.strerror}")
        trial = table(choice.get("trial"))
        on_trial = trial.get("name") == name
        try:
            if on_trial:
                watch(versions, name, float(trial.get("within_s", WITHIN_S)) + GRACE_S)
            become(versions, name, arguments, {**os.environ, VERSIONS: str(versions), STARTED: name})
        except OSError as error:
            _say(f"{folder_of(versions, name)} can't be started: {error.strerror}")
            if on_trial:
                choice = refused(choice, name, "not-startable", f"it can't be started: {error.strerror}")
                with suppress(OSError):
                    write_choice(versions, choice)
    return f"{versions.parent}: no agent is there that can be started; install one again"


def become(versions: Path, name: str, arguments: list[str], environment: dict[str, str]) -> None:
    """Become the program ``metrica-agent`` of a version. Raises OSError."""
    program = folder_of(versions, name) / "bin/metrica-agent"
    sys.stdout.flush()
    os.execve(program, [str(program), *arguments], environment)  # noqa: S606 - ours, from a folder of root's


def _say(text: str) -> None:
    sys.stderr.write(f"metrica-launcher: {text}\n")
    sys.stderr.flush()


def main() -> None:
    """``run``: start the agent as a service. Anything else is asked of the version that was started last."""
    versions, arguments = Path(__file__).resolve().parent / "versions", sys.argv[1:]
    if arguments[:1] == ["run"]:
        sys.exit(run(versions, arguments))
    choice = read_choice(versions)
    tried, there = table(choice.get("trial")).get("name"), complete(versions)
    for name in [*([str(tried)] if tried in there else []), *_others(choice, there)]:
        with suppress(OSError):
            become(versions, name, arguments, {**os.environ, VERSIONS: str(versions), STARTED: name})
    sys.exit(f"{versions.parent}: no agent is there that can be started; install one again")


if __name__ == "__main__":
    main()
