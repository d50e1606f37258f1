"""From the model that Compose resolved to the one that is applied."""

from __future__ import annotations

import copy
import json
from hashlib import sha256
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metrica_agent.decisions.manifest import EXECUTABLE, LINK, PLAIN, FileEntry, Folder
from metrica_agent.decisions.preflight import ImageNeed, Space, needs, require_host_sources, require_space
from metrica_agent.decisions.render import INPUTS_LABEL, Places, Rendered, release_digest, render
from metrica_fleet.definition import HealthPolicy, Limits, TcpCheck
from metrica_fleet.errors import NotNow, Unusable
from metrica_fleet.identity import RoleId

STATE = "/var/lib/metrica"
FOLDER = f"{STATE}/incoming/work/files"
PLACES = Places(folder=FOLDER, state=STATE, content=f"{STATE}/content", data=f"{STATE}/data/camera")


def entry(path: str, text: str = "", mode: str = PLAIN, target: str | None = None) -> FileEntry:
    data = (text if target is None else target).encode()
    return FileEntry(path=path, mode=mode, sha256=sha256(data).hexdigest(), bytes=len(data), target=target)


def link(path: str, target: str) -> FileEntry:
    return entry(path, mode=LINK, target=target)


FILES = (entry("compose.yaml", "{}"), entry("conf/a", "a"), entry("conf/b", "b"), entry("run", "#!", EXECUTABLE))


def model(services: dict[str, dict[str, Any]], **sections: Any) -> dict[str, Any]:
    return {"name": "x", "services": {key: {"image": "i:1", **one} for key, one in services.items()}, **sections}


def bind(source: str, target: str = "/t", *, read_only: bool = True, **bind: Any) -> dict[str, Any]:
    volume = {"type": "bind", "source": source, "target": target, "bind": {"create_host_path": True, **bind}}
    return {**volume, "read_only": True} if read_only else volume


def rendered(given: dict[str, Any], files: tuple[FileEntry, ...] = FILES, **variables: str) -> Rendered:
    return render(given, project="metrica", places=PLACES, entries=files, variables=variables)


def inputs(one: Rendered) -> dict[str, str]:
    return {plan.name: plan.inputs for plan in one.services}


def refusal(given: dict[str, Any], files: tuple[FileEntry, ...] = FILES) -> Unusable:
    with pytest.raises(Unusable) as refused:
        rendered(given, files)
    return refused.value


# --- what is mounted ---


@pytest.mark.parametrize(
    ("source", "mounted"),
    [("/conf/a", "conf/a"), ("/conf", "conf"), ("/conf/", "conf"), ("", "."), ("/run", "run")],
)
def test_a_read_only_bind_from_the_release_comes_from_its_content(source: str, mounted: str) -> None:
    one = rendered(model({"a": {"volumes": [bind(f"{FOLDER}{source}", propagation="rslave")]}}))
    (mount,) = one.mounts
    assert mount.source == mounted
    (volume,) = one.compose["services"]["a"]["volumes"]
    assert volume["source"] == f"{STATE}/content/{mount.digest}"
    assert volume["bind"] == {"create_host_path": False, "propagation": "rslave"}


def test_a_bind_through_links_comes_from_where_they_lead() -> None:
    files = (*FILES, link("now", "conf"), link("conf/l", "../now/a"))
    straight = rendered(model({"a": {"volumes": [bind(f"{FOLDER}/conf/a")]}}), files)
    around = rendered(model({"a": {"volumes": [bind(f"{FOLDER}/now/l")]}}), files)
    assert around == straight


@pytest.mark.parametrize("target", ["/etc/passwd", "../../../other", "loop"])
def test_a_link_out_of_the_folder_or_in_a_circle_is_refused(target: str) -> None:
    files = (*FILES, link("loop", target))
    assert refusal(model({"a": {"volumes": [bind(f"{FOLDER}/loop")]}}), files).reason == "bind-outside"


@pytest.mark.parametrize(
    ("service", "reason", "words"),
    [
        ({"volumes": [bind(f"{FOLDER}/no")]}, "bind-source-missing", "./no"),
        ({"volumes": [bind(f"{FOLDER}/conf", read_only=False)]}, "bind-writable", ":ro"),
        ({"volumes": [bind(f"{FOLDER}/data", read_only=False)]}, "bind-writable", "${METRICA_DATA}"),
        ({"volumes": [bind(f"{STATE}/incoming/work")]}, "bind-outside", ".."),
        ({"volumes": [bind(f"{STATE}/data/other", read_only=False)]}, "bind-outside", "other"),
        ({"volumes": [bind(STATE, read_only=False)]}, "bind-outside", STATE),
        ({"volumes": [{"type": "volume", "target": "v:/x"}]}, "mount-target-relative", "v:/x"),
        ({"build": {"context": FOLDER}}, "build-unsupported", "build"),
        ({"image": ""}, "compose-unsupported", "image"),
        ({"credential_spec": {"file": f"{FOLDER}/run"}}, "path-into-release", "services.a.credential_spec.file"),
    ],
)
def test_what_would_spring_a_trap_is_refused_by_name(service: dict[str, Any], reason: str, words: str) -> None:
    refused = refusal(model({"a": service}))
    assert refused.reason == reason
    assert words in refused.message
    assert "a" in refused.message


@pytest.mark.parametrize(
    ("sections", "reason"),
    [
        ({"configs": {"c": {"file": f"{FOLDER}/no"}}}, "config-file-missing"),
        ({"secrets": {"c": {"file": f"{FOLDER}/no"}}}, "secret-file-missing"),
        ({"configs": {"c": {"file": f"{FOLDER}/conf"}}}, "config-file-missing"),
        ({"secrets": {"c": {"file": f"{STATE}/agent.sqlite"}}}, "bind-outside"),
        ({"secrets": {"c": {"environment": "NOBODY"}}}, "variable-unset"),
        ({"models": {"m": {}}}, "compose-unsupported"),
    ],
)
def test_a_section_that_will_not_do_is_refused(sections: dict[str, Any], reason: str) -> None:
    assert refusal(model({"a": {}}, **sections)).reason == reason


def test_a_model_without_services_is_refused() -> None:
    assert refusal(model({})).reason == "no-services"


# --- what is left as it is, and what not ---


def test_paths_of_the_machine_and_data_stay_and_are_told_as_needs() -> None:
    volumes = [bind("/dev/video0", "/1", read_only=False), bind(f"{PLACES.data}/d$$b", "/2", read_only=False)]
    volumes += [bind(f"{FOLDER}/run", "/3"), {"type": "volume", "source": "named", "target": "/4", "volume": {}}]
    device = {"o": "rw,bind", "type": "none", "device": f"{PLACES.data}/disk"}
    one = rendered(
        model(
            {"a": {"volumes": volumes, "platform": "linux/arm/v7", "secrets": [{"source": "s"}]}, "b": {}},
            volumes={"named": {"name": "metrica_named", "driver_opts": device}},
            secrets={"s": {"name": "metrica_s", "file": "/etc/token"}},
        )
    )
    needed = needs(one.compose, content_root=PLACES.content, data_root=PLACES.data)
    assert needed.images == (ImageNeed(name="i:1"), ImageNeed(name="i:1", platform="linux/arm/v7"))
    assert needed.data_directories == (f"{PLACES.data}/d$b", f"{PLACES.data}/disk")
    assert needed.host_sources == ("/dev/video0", "/etc/token")
    assert needed.contents == (one.mounts[0].digest,)


def test_the_project_is_fixed_and_what_means_nothing_on_a_device_is_dropped() -> None:
    service: dict[str, Any] = {
        "develop": {"watch": []},
        "profiles": ["p"],
        "pull_policy": "always",
        "x-note": 1,
        "entrypoint": None,
    }
    one = rendered({**model({"a": service}), "x-common": {}})
    assert one.compose["name"] == "metrica"
    assert set(one.compose) == {"name", "services"}
    assert set(one.compose["services"]["a"]) == {"image", "labels"}
    assert one.compose["services"]["a"]["labels"] == {INPUTS_LABEL: one.services[0].inputs}


def test_the_model_given_is_not_written_into() -> None:
    given = model(
        {"a": {"volumes": [bind(f"{FOLDER}/run")], "labels": {"l": "1"}, "networks": {"n": None}}},
        networks={"n": {"name": "metrica_n"}},
        configs={"c": {"file": f"{FOLDER}/run"}},
    )
    before = copy.deepcopy(given)
    rendered(given)
    assert given == before


def test_a_variable_as_a_secret_becomes_a_file() -> None:
    given = model({"a": {"secrets": [{"source": "s"}]}}, secrets={"s": {"name": "n", "environment": "TOKEN"}})
    one, other = rendered(given, TOKEN="t$1"), rendered(given, TOKEN="t$2")
    (mount,) = one.mounts
    assert (mount.text, mount.source) == ("t$1", None)
    assert one.compose["secrets"]["s"] == {"name": "n", "file": f"{STATE}/content/{mount.digest}"}
    assert inputs(one) != inputs(other)


@pytest.mark.parametrize(
    ("service", "replicas", "runs_once"),
    [
        ({}, 1, True),
        ({"restart": "no"}, 1, True),
        ({"restart": "on-failure:3"}, 1, True),
        ({"restart": "unless-stopped"}, 1, False),
        ({"restart": "always", "scale": 3}, 3, False),
        ({"scale": 0}, 0, True),
        ({"deploy": {"replicas": 2}}, 2, True),
        ({"deploy": {"restart_policy": {"condition": "any"}}}, 1, False),
        ({"restart": "always", "deploy": {"restart_policy": {"condition": "on-failure"}}}, 1, True),
        ({"restart": "always", "deploy": {"restart_policy": {"condition": "none"}}}, 1, True),
    ],
)
def test_a_plan_says_how_many_and_whether_they_may_end(
    service: dict[str, Any], replicas: int, *, runs_once: bool
) -> None:
    (plan,) = rendered(model({"a": service})).services
    assert (plan.name, plan.image, plan.replicas, plan.runs_once) == ("a", "i:1", replicas, runs_once)


# --- labels ---

READERS: dict[str, dict[str, Any]] = {
    "dir": {"volumes": [bind(f"{FOLDER}/conf")]},
    "file": {"volumes": [bind(f"{FOLDER}/conf/a")]},
    "all": {"volumes": [bind(FOLDER)]},
    "cfg": {"configs": [{"source": "c", "target": "/c"}]},
    "sec": {"secrets": [{"source": "s", "target": "/s"}]},
    "net": {"networks": {"n": None}},
    "vol": {"volumes": [{"type": "volume", "source": "v", "target": "/v"}]},
    "env": {"environment": {"E": "1"}},
    "plain": {},
}


def stack(**changes: Any) -> dict[str, Any]:
    sections: dict[str, Any] = {
        "configs": {"c": {"name": "c", "file": f"{FOLDER}/conf/a"}},
        "secrets": {"s": {"name": "s", "file": f"{FOLDER}/conf/b"}},
        "networks": {"n": {"name": "n"}},
        "volumes": {"v": {"name": "v"}},
    }
    services = {name: {**READERS[name], **changes.get(name, {})} for name in READERS}
    return model(services, **{key: changes.get(key, section) for key, section in sections.items()})


def changed(before: Rendered, after: Rendered) -> set[str]:
    one, other = inputs(before), inputs(after)
    return {name for name in one if one[name] != other[name]}


@pytest.mark.parametrize(
    ("files", "readers"),
    [
        ((entry("conf/a", "A"), entry("conf/b", "b")), {"dir", "file", "all", "cfg"}),
        ((entry("conf/a", "a"), entry("conf/b", "B")), {"dir", "all", "sec"}),
        ((entry("conf/a", "a", EXECUTABLE), entry("conf/b", "b")), {"dir", "file", "all", "cfg"}),
        ((entry("conf/a", "a"), entry("conf/b", "b"), entry("conf/c", "")), {"dir", "all"}),
        ((entry("conf/a", "a"), entry("conf/b", "b"), entry("README", "")), {"all"}),
    ],
)
def test_a_changed_file_changes_the_labels_of_its_readers_and_no_others(
    files: tuple[FileEntry, ...], readers: set[str]
) -> None:
    before = (entry("conf/a", "a"), entry("conf/b", "b"))
    assert changed(rendered(stack(), before), rendered(stack(), files)) == readers


@pytest.mark.parametrize(
    ("changes", "readers"),
    [
        ({"networks": {"n": {"name": "n", "internal": True}}}, {"net"}),
        ({"volumes": {"v": {"name": "w"}}}, {"vol"}),
        ({"volumes": {"v": {"name": "v", "driver_opts": {"o": "x"}}}}, set[str]()),
        ({"env": {"environment": {"E": "2"}}}, {"env"}),
        ({"plain": {"image": "i:2"}}, {"plain"}),
        ({"plain": {"labels": {"l": "1"}}}, {"plain"}),
        ({"plain": {"restart": "always"}}, {"plain"}),
        ({"plain": {"scale": 3}}, set[str]()),
        ({"plain": {"deploy": {"replicas": 3}}, "env": {"depends_on": {"plain": {}}}}, {"plain"}),
        ({"configs": {"c": {"name": "c", "content": "inline"}}}, {"cfg"}),
    ],
)
def test_a_changed_definition_changes_the_labels_it_must(changes: dict[str, Any], readers: set[str]) -> None:
    assert changed(rendered(stack()), rendered(stack(**changes))) == readers


def test_labels_do_not_depend_on_where_the_release_was_staged() -> None:
    elsewhere = PLACES.folder.replace("work", "other")
    moved = json.loads(json.dumps(stack()).replace(FOLDER, elsewhere))
    places = Places(folder=elsewhere, state=PLACES.state, content=PLACES.content, data=PLACES.data)
    other = render(moved, project="metrica", places=places, entries=FILES, variables={})
    assert other == rendered(stack())


PATHS = st.lists(st.sampled_from(["a", "b", "c", "d"]), min_size=1, max_size=3).map("/".join)
TREES = st.dictionaries(PATHS, st.text(max_size=3), min_size=1, max_size=6).map(
    lambda tree: {path: text for path, text in tree.items() if not any(other.startswith(f"{path}/") for other in tree)}
)


def entries_of(tree: dict[str, str]) -> tuple[FileEntry, ...]:
    return tuple(entry(path, text) for path, text in tree.items())


@given(TREES, TREES)
def test_a_label_changes_exactly_when_something_that_the_service_mounts_does(
    before: dict[str, str], after: dict[str, str]
) -> None:
    sources = sorted({".", *Folder(entries_of(before)).directories(), *before})
    known = {source for source in sources if Folder(entries_of(after)).digest(source) is not None}
    services = {f"s{number}": source for number, source in enumerate(sources) if source in known}
    given = model({name: {"volumes": [bind(f"{FOLDER}/{source}")]} for name, source in services.items()})
    if not services:
        return

    def read(tree: dict[str, str], source: str) -> dict[str, str]:
        prefix = "" if source == "." else f"{source}/"
        below = {path.removeprefix(prefix): text for path, text in tree.items() if path.startswith(prefix)}
        return {"": tree[source]} if source in tree else below

    differing = {name for name, source in services.items() if read(before, source) != read(after, source)}
    assert changed(rendered(given, entries_of(before)), rendered(given, entries_of(after))) == differing


@given(TREES, st.randoms(use_true_random=False))
def test_the_order_of_files_means_nothing(tree: dict[str, str], chance: Any) -> None:
    files = list(entries_of(tree))
    shuffled = chance.sample(files, len(files))
    given = model({"a": {"volumes": [bind(FOLDER)]}})
    assert rendered(given, tuple(shuffled)) == rendered(given, tuple(files))
    assert digest(entries=shuffled) == digest(entries=files)


# --- digest of a release ---


def digest(**changes: Any) -> str:
    given: dict[str, Any] = {
        "role": RoleId("camera"),
        "entries": FILES,
        "variables": {"A": "1", "B": "2"},
        "checks": (),
        "health": HealthPolicy(),
        "limits": Limits(),
    }
    return release_digest(**{**given, **changes})


def test_the_same_inputs_are_the_same_release() -> None:
    assert digest() == digest(variables={"B": "2", "A": "1"})
    assert len(digest()) == 64


@pytest.mark.parametrize(
    "changes",
    [
        {"role": RoleId("gate")},
        {"entries": FILES[1:]},
        {"entries": (*FILES[:-1], entry("run", "#!", PLAIN))},
        {"variables": {"A": "1", "B": "3"}},
        {"checks": (TcpCheck(name="c", port=80),)},
        {"health": HealthPolicy(soak_s=1.0)},
        {"limits": Limits(apply_deadline_s=1.0)},
    ],
)
def test_any_other_input_is_another_release(changes: dict[str, Any]) -> None:
    assert digest(**changes) != digest()


# --- preflight ---


def test_a_disk_without_room_for_the_release_and_a_reserve_is_waited_for() -> None:
    require_space(Space(free_bytes=10**9, free_files=10**6), needed_bytes=10**8, needed_files=100)
    for space in (Space(free_bytes=10**8, free_files=10**6), Space(free_bytes=10**9, free_files=10)):
        with pytest.raises(NotNow) as trouble:
            require_space(space, needed_bytes=10**8, needed_files=100)
        assert trouble.value.reason == "disk-full"


def test_a_path_of_the_machine_that_is_not_there_is_waited_for() -> None:
    require_host_sources(())
    with pytest.raises(NotNow) as trouble:
        require_host_sources(("/mnt/usb", "/mnt/other"))
    assert trouble.value.reason == "host-source-missing"
    assert "/mnt/usb" in trouble.value.message
