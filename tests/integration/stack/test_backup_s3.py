"""The shipped backup and restore against S3, over TLS by an authority of one's own: rclone is the S3.

What is restored, and how much is lost, is test_backup.py's; here, that both tools speak with such a place.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import subprocess
from typing import TYPE_CHECKING, Final, Self

import pytest
from tests.fixtures.authority import Authority
from tests.fixtures.backed_up import Machine
from tests.fixtures.broker import HOST, Broker, free_port, wait_for_port

if TYPE_CHECKING:
    from pathlib import Path

BUCKET: Final = "hub-backups"
REGION: Final = "eu-central-003"


class Storage:
    """One S3, with one bucket."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._authority = Authority(folder / "authority")
        self.bucket = folder / "disk" / BUCKET
        self._port = free_port()
        self._key_id, self._key = secrets.token_hex(10), secrets.token_hex(20)
        self.log_file = folder / "log"

    @property
    def place(self) -> dict[str, str]:
        """What an operator writes into the folder of secrets."""
        return {
            # By a name: pgBackRest looks for no addresses in a certificate.
            "backup_repository": f"s3:https://localhost:{self._port}/{BUCKET}/metrica",
            "backup_s3_key_id": self._key_id,
            "backup_s3_key": self._key,
            "backup_s3_region": REGION,
            "backup_s3_ca": self._authority.file.read_text(encoding="ascii"),
        }

    def __enter__(self) -> Self:
        self.bucket.mkdir(parents=True)
        mine = self._authority.issued("localhost", purpose="server")
        command = [os.environ["RCLONE"], "serve", "s3", str(self.bucket.parent), "--addr", f"{HOST}:{self._port}"]
        command += ["--auth-key", f"{self._key_id},{self._key}", "--cert", str(mine.file), "--key", str(mine.key)]
        command += ["--vfs-cache-mode", "off", "-vv"]
        environment = {"PATH": os.environ["PATH"], "HOME": str(self._folder), "RCLONE_CONFIG": ""}
        with self.log_file.open("wb") as log:
            self._process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        try:
            wait_for_port(self._port, self._process, f"rclone (see {self.log_file})")
        except BaseException:
            self._process.kill()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(20)


@pytest.mark.long
async def test_a_machine_that_burned_comes_back_from_s3(tmp_path: Path) -> None:
    with (
        Broker(tmp_path) as broker,
        Storage(tmp_path) as storage,
        Machine(broker.port, place=storage.place) as vps,
    ):
        vps.execute("CREATE TABLE kept AS SELECT 'a name that nobody else may read' AS name")
        assert "✔ database: full backup" in await asyncio.to_thread(vps.backup, "now")
        assert f"repo1-s3-region={REGION}\n" in (vps.state / "pgbackrest.conf").read_text(encoding="utf-8")
        stored = {path.relative_to(storage.bucket).parts[:2] for path in storage.bucket.rglob("*") if path.is_file()}
        assert {("metrica", "database"), ("metrica", "files")} <= stored
        told = b"a name that nobody else may read"
        assert not [path for path in storage.bucket.rglob("*") if path.is_file() and told in path.read_bytes()]
        assert "the backup is whole" in await asyncio.to_thread(vps.backup, "verify")

        vps.execute("INSERT INTO kept VALUES ('said later')")
        segment = vps.execute("SELECT pg_walfile_name(pg_switch_wal())")
        vps.wait(lambda: vps.execute("SELECT last_archived_wal FROM pg_stat_archiver") >= segment, "archived")
        await asyncio.to_thread(vps.burns)
        await asyncio.to_thread(vps.restore)
        assert vps.execute("SELECT count(*) FROM kept") == "2"
        assert (vps.files / "hub.toml").read_text(encoding="utf-8") == 'fleet = "test"\n'

        # Whoever has not the key gets nothing, and it is said.
        (vps.secrets / "backup_s3_key").write_text("another\n", encoding="utf-8")
        assert "now database failed" in await asyncio.to_thread(vps.backup, "now", fails=True)
        assert vps.figures()['metrica_backup_failed{kind="files"}'] == 1
