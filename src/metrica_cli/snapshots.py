"""Two states of a fleet repository, before and after, as commits that a device's own Git edge can read.

What is on disk is made a commit as if all of it were committed now (`git add --all`: what is ignored stays out), in a
folder of its own: nothing in the repository is written, its index included. A fleet repository that is a folder of a
larger one is read as if it were alone.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from metrica_cli.trouble import Exit, Trouble
from metrica_fleet.identity import CommitId

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping

_DEADLINE_S: Final = 120.0
_NOBODY: Final = {
    f"GIT_{who}_{what}": value
    for who in ("AUTHOR", "COMMITTER")
    for what, value in (("NAME", "metrica"), ("EMAIL", "metrica@localhost"), ("DATE", "@0 +0000"))
}
_STANDING: Final = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_PREFIX")
"""What a hook's environment holds of the repository that it runs in."""


@contextmanager
def snapshots(directory: Path) -> Generator[Snapshots]:
    """Give the states of the repository of ``directory``.

    Raises:
        Trouble: it is no Git checkout.
    """
    with tempfile.TemporaryDirectory(prefix="metrica-") as folder:
        yield Snapshots(directory, Path(folder))


class Snapshots:
    """A checkout, and a mirror apart from it, in which new objects go.

    Attributes:
        mirror: Has all commits that were returned.
    """

    def __init__(self, directory: Path, folder: Path) -> None:
        self._directory = directory
        self.mirror = folder / "mirror.git"
        self._index = folder / "index"
        self._devices: dict[CommitId, frozenset[str]] = {}
        self._environment = {name: value for name, value in os.environ.items() if name not in _STANDING}
        top, self._prefix = self._of_checkout("rev-parse", "--show-toplevel", "--show-prefix").split("\n")[:2]
        self._top = Path(top)
        objects = (directory / self._of_checkout("rev-parse", "--git-path", "objects").strip()).resolve()
        self._run("init", "--quiet", "--bare", str(self.mirror), at=folder)
        alternates = self.mirror / "objects" / "info" / "alternates"
        alternates.write_text(f"{objects}\n", encoding="utf-8")
        self._apart = {
            "GIT_OBJECT_DIRECTORY": str(self.mirror / "objects"),
            "GIT_ALTERNATE_OBJECT_DIRECTORIES": str(objects),
            **_NOBODY,
        }

    def at(self, name: str) -> tuple[CommitId, str]:
        """Return the state at the commit that git knows as ``name``, and that commit's own name.

        Raises:
            Trouble: there is none.
        """
        commit = self._commit_named(name)
        if commit is None:
            raise Trouble(f'there is no commit "{name}"', code=Exit.NOT_FOUND, advice="git log --oneline")
        return self._alone(commit), commit

    def head(self) -> tuple[CommitId, str] | None:
        """Return the state at HEAD, and its name; ``None`` before the first commit."""
        commit = self._commit_named("HEAD")
        return None if commit is None else (self._alone(commit), commit)

    def has(self, commit: str) -> bool:
        """Whether ``commit`` is here."""
        return self._commit_named(commit) is not None

    def on_disk(self) -> CommitId:
        """Return the state that is on disk."""
        apart = {**self._apart, "GIT_INDEX_FILE": str(self._index)}
        if self._commit_named("HEAD") is not None:
            self._run("read-tree", "HEAD", at=self._top, more=apart)
        self._run("add", "--all", "--", self._prefix or ".", at=self._top, more=apart)
        prefix = [f"--prefix={self._prefix}"] if self._prefix else []
        return self._committed(self._run("write-tree", *prefix, at=self._top, more=apart).strip())

    def devices(self, commit: CommitId) -> frozenset[str]:
        """Return which devices a state has."""
        if commit not in self._devices:
            listed = self._run("ls-tree", "-z", "--name-only", commit, "devices/", at=self._top, more=self._apart)
            names = (path.removeprefix("devices/") for path in listed.split("\0"))
            found = frozenset(name.removesuffix(".toml") for name in names if name.endswith(".toml"))
            self._devices[commit] = found
        return self._devices[commit]

    def _commit_named(self, name: str) -> str | None:
        found = self._tried("rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}")
        return found.strip() or None

    def _alone(self, commit: str) -> CommitId:
        """Return a commit of the fleet repository's own folder in ``commit``; an empty one where it was not there."""
        tree = self._tried("rev-parse", "--verify", "--quiet", f"{commit}:{self._prefix.rstrip('/')}").strip()
        return self._committed(tree or self._run("mktree", at=self._top, more=self._apart).strip())

    def _committed(self, tree: str) -> CommitId:
        return CommitId(self._run("commit-tree", "-m", "plan", tree, at=self._top, more=self._apart).strip())

    def _of_checkout(self, *arguments: str) -> str:
        try:
            return self._run(*arguments, at=self._directory)
        except Trouble as trouble:
            what = f"{self._directory} is no Git checkout"
            raise Trouble(
                what, code=Exit.USAGE, why=trouble.why or trouble.what, advice="metrica lint DIR needs none"
            ) from trouble

    def _tried(self, *arguments: str) -> str:
        """Return what git says, nothing when it says no."""
        try:
            return self._run(*arguments, at=self._top)
        except Trouble:
            return ""

    def _run(self, *arguments: str, at: Path, more: Mapping[str, str] | None = None) -> str:
        command = ["git", "-c", "core.quotePath=false", "-c", "gc.auto=0", *arguments]
        try:
            done = subprocess.run(
                command,
                cwd=at,
                env={**self._environment, **(more or {})},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                check=False,
                timeout=_DEADLINE_S,
            )
        except FileNotFoundError as error:
            missing = "git is not installed" if at.is_dir() else f"{at} is no folder"
            raise Trouble(missing, code=Exit.USAGE) from error
        except (OSError, subprocess.TimeoutExpired) as error:
            raise Trouble(f"git {arguments[0]} did not end", code=Exit.NO, why=str(error)) from error
        if done.returncode != 0:
            why = done.stderr.decode("utf-8", "replace").strip().splitlines()
            raise Trouble(f"git {arguments[0]} failed", code=Exit.NO, why=why[-1] if why else "")
        return done.stdout.decode("utf-8", "surrogateescape")
