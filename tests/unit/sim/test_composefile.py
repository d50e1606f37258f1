"""``printed/thing.json`` is what Docker Compose 2.26.1 printed for ``printed/compose.yaml`` in the place FOLDER.

tests/demo/test_demo.py holds the example fleet's roles against the Compose that is installed.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from metrica_fleet.errors import Unusable
from metrica_sim.composefile import resolved

PRINTED = Path(__file__).parent / "printed"


def refusal(tmp_path: Path, text: str) -> Unusable:
    (tmp_path / "compose.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(Unusable) as refused:
        resolved(tmp_path, {}, "metrica")
    return refused.value


def test_the_model_is_what_compose_printed(tmp_path: Path) -> None:
    for name in ("compose.yaml", "my.env"):
        shutil.copy(PRINTED / name, tmp_path)
    (tmp_path / "conf").mkdir()
    expected = json.loads((PRINTED / "thing.json").read_text(encoding="utf-8").replace("FOLDER", str(tmp_path)))
    assert resolved(tmp_path, {"METRICA_DATA": "/data"}, "metrica") == expected


def test_a_folder_without_a_compose_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Unusable) as refused:
        resolved(tmp_path, {}, "metrica")
    assert refused.value.reason == "compose-missing-file"


@pytest.mark.parametrize(
    "text",
    [
        "services: [a",
        "- a",
        "service: {}",
        "services: []",
        "services: {a: {image: b, unknwon: 1}}",
        "services: {a: {command: x}}",
        "services: {a: {image: 5}}",
        "services: {a: {image: b, image: c}}",
        'services: {a: {image: b, ports: ["x:y"]}}',
        'services: {a: {image: b, ports: ["80-81:90"]}}',
        "services: {a: {image: b, networks: [zz]}}",
        'services: {a: {image: b, volumes: ["zz:/a"]}}',
        "services: {a: {image: b, depends_on: [q]}}",
        "services: {a: {image: b, configs: [q]}}",
        "services: {a: {image: b, env_file: q.env}}",
        "services: {a: {image: b, healthcheck: {test: [sleep]}}}",
        "services: {a: {image: b, healthcheck: {interval: 5}}}",
        "services: {a: {image: b, restart: true}}",
        "services: {a: {image: b, deploy: {replicas: many}}}",
        'services: {a: {image: b, command: "an \'open quote"}}',
        "services: {a: {extends: b}}",
        "include: [other.yaml]",
        "services: {a: {image: '${X:?say X}'}}",
    ],
)
def test_what_compose_refuses_is_refused(tmp_path: Path, text: str) -> None:
    assert refusal(tmp_path, text).reason == "compose-invalid"


def test_a_variable_that_nobody_sets_is_named_with_its_place(tmp_path: Path) -> None:
    refused = refusal(tmp_path, "services: {a: {image: $NONE}}")
    assert (refused.reason, "services.a.image" in refused.message, "NONE" in refused.message) == (
        "variable-unset", True, True,
    )  # fmt: skip


def test_a_file_that_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    (tmp_path / "compose.yaml").write_bytes(b"services: \xff")
    with pytest.raises(Unusable) as refused:
        resolved(tmp_path, {}, "metrica")
    assert refused.value.reason == "compose-invalid"
