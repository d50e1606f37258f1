"""What a role's Compose files name besides themselves, and what of it is refused."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from metrica_agent.adapters.git.references import MOST_BYTES, MOST_DEEP, MOST_FILES, found
from metrica_agent.decisions.references import require_inside
from metrica_fleet.errors import Unusable

VARIABLES = {"METRICA_DEVICE": "pi-01", "UP": "../..", "METRICA_DATA": "/var/lib/metrica/data/camera"}


def role(folder: Path, compose: str, **others: str) -> Path:
    (folder / "compose.yaml").write_text(compose)
    for name, content in others.items():
        path = folder / name.replace("__", "/").replace("_yaml", ".yaml")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return folder


def refused(folder: Path) -> Unusable:
    with pytest.raises(Unusable) as caught:
        require_inside(found(folder), VARIABLES)
    return caught.value


@pytest.mark.parametrize(
    "compose",
    [
        "services: {web: {image: x}}",
        "services: {web: {env_file: app.env}}",
        "services: {web: {env_file: [./app.env, env/../app.env]}}",
        "services: {web: {env_file: [{path: app.env, required: false}]}}",
        "services: {web: {env_file: 'env/${METRICA_DEVICE}.env'}}",
        "services: {web: {env_file: 'env/$METRICA_DEVICE.env'}}",
        "services: {web: {env_file: 'cost$$.env'}}",
        "services: {web: {label_file: [one.labels]}}",
        "services: {web: {extends: base}, base: {image: x}}",
        "services: {web: {extends: {service: base}}}",
        "services: {web: {extends: {service: base, file: common/base_yaml}}}",
        # Services, variables and labels may have any name, those keys' too.
        "services: {extends: {image: x, command: /bin/sh}, env_file: {image: ../x}, include: {image: /x}}",
        "services: {web: {environment: {env_file: /etc/hosts, extends: ../x}, labels: {include: /x}}}",
        "x-note: {env_file: /etc/hosts}\nservices: {web: {image: x}}",
    ],
)
def test_what_stays_in_the_folder_is_none_of_ours(tmp_path: Path, compose: str) -> None:
    require_inside(found(role(tmp_path, compose, common__base_yaml="services: {base: {image: x}}")), VARIABLES)


@pytest.mark.parametrize(
    ("compose", "key"),
    [
        ("services:\n  web:\n    env_file: ../other/app.env", "env_file"),
        ("services:\n  web:\n    env_file: /etc/metrica/bus_password", "env_file"),
        ("services:\n  web:\n    env_file: ~/.profile", "env_file"),
        ("services:\n  web:\n    env_file: [good.env, a/../../b]", "env_file"),
        ("services:\n  web:\n    env_file: [{path: ../b, required: false}]", "env_file"),
        ("services:\n  web:\n    env_file: ${METRICA_DATA}/app.env", "env_file"),
        ("services:\n  web:\n    env_file: a/${UP}/app.env", "env_file"),
        ("services:\n  web:\n    env_file: ${UNSET}/app.env", "env_file"),
        ("services:\n  web:\n    env_file: ${UNSET:-/etc/passwd}", "env_file"),
        ("services:\n  web:\n    label_file: /etc/passwd", "label_file"),
        ("services:\n  web:\n    extends: {file: ../b.yaml, service: b}", "extends"),
        ("services:\n  web:\n    extends: {file: '${METRICA_DEVICE}.yaml', service: b}", "extends"),
        ("\n\ninclude: [../b.yaml]", "include"),
        ("\n\ninclude: [https://example.org/b.git]", "include"),
        ("\n\ninclude: ['git@example.org:b.git']", "include"),
        ("\n\ninclude: ['oci://example.org/b']", "include"),
        ("\n\ninclude: [{path: [a.yaml, /b.yaml]}]", "include"),
        ("\n\ninclude: [{path: a.yaml, project_directory: ..}]", "include"),
        ("\n\ninclude: [{path: a.yaml, env_file: ../.env}]", "include"),
        # However it is written down.
        ("x:\n  a: &a {env_file: /etc/passwd}\nservices: {web: {<<: *a}}", "env_file"),
        ("x:\n  a: &a [{env_file: /etc/passwd}]\nservices: {web: {<<: *a}}", "env_file"),
        ("x:\n  a: &a /etc/passwd\nservices: {web: {env_file: *a}}", "env_file"),
        ("---\nservices: {}\n---\nservices: {web: {env_file: /etc/passwd}}", "env_file"),
        ("\n\n{services: {web: {'env_file': !override [/etc/passwd]}}}", "env_file"),
    ],
)
def test_what_leads_out_of_the_folder_is_refused_with_its_place(tmp_path: Path, compose: str, key: str) -> None:
    error = refused(role(tmp_path, compose))
    assert error.reason == "reads-outside"
    assert error.message.startswith("compose.yaml: line ")
    assert f": {key} " in error.message


@pytest.mark.parametrize(
    ("compose", "inner", "where"),
    [
        ("include: [sub/inner.yaml]", "services: {a: {env_file: ../../app.env}}", "sub/inner.yaml: line 1: env_file"),
        (
            "services: {a: {extends: {file: sub/inner.yaml, service: a}}}",
            "services: {a: {env_file: ../../app.env}}",
            "sub/inner.yaml: line 1: env_file",
        ),
        (
            "include: [{path: sub/inner.yaml, project_directory: .}]",
            "services: {a: {env_file: ../app.env}}",
            "sub/inner.yaml: line 1: env_file",
        ),
        ("include: [sub/inner.yaml]", "include: [../../b.yaml]", "sub/inner.yaml: line 1: include"),
    ],
)
def test_included_and_extended_files_are_followed(tmp_path: Path, compose: str, inner: str, where: str) -> None:
    assert refused(role(tmp_path, compose, sub__inner_yaml=inner)).message.startswith(where)


def test_a_path_of_an_included_file_is_relative_to_that_file(tmp_path: Path) -> None:
    role(tmp_path, "include: [sub/inner.yaml]", sub__inner_yaml="services: {a: {env_file: ../app.env}}")
    require_inside(found(tmp_path), VARIABLES)


def test_files_that_include_each_other_are_read_once(tmp_path: Path) -> None:
    role(tmp_path, "include: [sub/inner.yaml]", sub__inner_yaml="include: [../compose.yaml, inner.yaml]")
    assert {(one.file, one.path) for one in found(tmp_path)} == {
        ("compose.yaml", "sub/inner.yaml"),
        ("sub/inner.yaml", "../compose.yaml"),
        ("sub/inner.yaml", "inner.yaml"),
    }


def test_without_a_compose_file_nothing_is_named(tmp_path: Path) -> None:
    assert found(tmp_path) == ()


BOMB = "\n".join(
    ["a0: &a0 [x, x, x, x, x, x, x, x, x]", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12))]
)


@pytest.mark.parametrize(
    ("compose", "reason"),
    [
        (BOMB, "compose-too-large"),
        ("x: " + "[" * (MOST_DEEP + 1) + "]" * (MOST_DEEP + 1), "compose-too-large"),
        ("[" * 200_000, "compose-too-large"),
        ("x: " + "y" * MOST_BYTES, "compose-too-large"),
        ("x: &a [*a]", "compose-invalid"),
        ("x: *nowhere", "compose-invalid"),
        ("x: [", "compose-invalid"),
        ("\t- x: y", "compose-invalid"),
        ("include: [" + ", ".join(f"{n}.yaml" for n in range(MOST_FILES + 1)) + "]", "compose-too-large"),
    ],
)
def test_what_would_take_for_ever_is_refused_at_once(tmp_path: Path, compose: str, reason: str) -> None:
    began_s = time.process_time()
    assert refused(role(tmp_path, compose)).reason == reason
    assert time.process_time() - began_s < 5
