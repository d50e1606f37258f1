from __future__ import annotations

import json
from typing import Any

import pytest

from metrica_agent.decisions.world import Desired, Release, ServicePlan
from metrica_cli.images import Unweighed, Weight, to_download, weight_in
from metrica_cli.outcomes import Outcome, outcome, weighed
from metrica_cli.rehearsal import Refusal, Staged
from metrica_fleet.identity import CommitId, DeviceId, FleetId, ReleaseDigest, RoleId
from metrica_fleet.policies import HealthPolicy, Limits, UpdatePolicy


def staged(commit: str, services: dict[str, str], *, patience_s: float = 1.0, image: str = "busybox:1") -> Staged:
    """Return what a commit comes to; ``services``: each with a digest of all that it reads."""
    desired = Desired(
        commit=CommitId(commit * 40),
        fleet=FleetId("f"),
        device=DeviceId("pi-01"),
        role=RoleId("camera"),
        tags=(),
        variables={},
        health=HealthPolicy(),
        limits=Limits(),
        checks=(),
        update=UpdatePolicy(patience_s=patience_s),
    )
    digest = ReleaseDigest(repr(sorted(services.items())) + image)
    plans = tuple(ServicePlan(name=name, inputs=inputs, image=image) for name, inputs in services.items())
    release = Release(
        digest=digest, role=desired.role, services=plans, checks=(), health=HealthPolicy(), limits=Limits()
    )
    return Staged(desired, digest, release, {})


OLD = staged("a", {"web": "1", "db": "1"})
NO = Refusal("reads-outside", "compose.yaml: line 3")


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (OLD, staged("b", {"web": "1", "db": "1"}), {"change": "none"}),
        (OLD, staged("b", {"web": "1", "db": "1"}, patience_s=2), {"change": "policy"}),
        (OLD, staged("b", {"web": "2", "db": "1"}), {"change": "changed", "restarts": ("web",)}),
        (
            OLD,
            staged("b", {"web": "1", "new": "1"}),
            {"change": "changed", "starts": ("new",), "removes": ("db",)},
        ),
        (
            OLD,
            staged("b", {"web": "2", "db": "2"}, image="busybox:2"),
            {"change": "changed", "restarts": ("db", "web"), "images": ("busybox:2",)},
        ),
        (None, OLD, {"change": "new", "starts": ("db", "web"), "images": ("busybox:1",)}),
        (NO, OLD, {"change": "mended", "starts": ("db", "web"), "images": ("busybox:1",)}),
        (OLD, NO, {"change": "refused", "role": None, "reason": "reads-outside", "message": "compose.yaml: line 3"}),
    ],
)
def test_what_a_change_comes_to(
    before: Staged | Refusal | None, after: Staged | Refusal, expected: dict[str, Any]
) -> None:
    fields: dict[str, Any] = {"device": "pi-01", "role": "camera", **expected}
    assert outcome("pi-01", before, after) == Outcome(**fields)


def test_a_device_that_is_named_no_more_keeps_what_it_runs() -> None:
    assert outcome("pi-01", OLD, None).change == "gone"


CHANGED = Outcome(device="pi-01", role="camera", change="changed", restarts=("web",), images=("new:1",))


@pytest.mark.parametrize(
    ("known", "free_bytes", "change", "size", "told"),
    [
        (Weight({"a": 5, "b": 7}), 100, "changed", 7, ""),
        (Weight({"a": 5, "b": 7}), None, "changed", 7, ""),
        (Weight({"a": 5, "b": 7}), 6, "changed", 7, "it does not fit: 7 bytes to download, 6 free"),
        (Unweighed("new:1: no route"), 100, "changed", None, "new:1: no route"),
        (Unweighed("new:1 is for amd64", is_wrong=True), 100, "refused", None, "new:1 is for amd64"),
    ],
)
def test_what_is_to_be_downloaded_is_what_the_old_images_lack(
    known: Weight | Unweighed, free_bytes: int | None, change: str, size: int | None, told: str
) -> None:
    found = weighed(CHANGED, ("old:1",), {"old:1": Weight({"a": 5}), "new:1": known}, free_bytes)
    assert (found.change, found.download_bytes, found.message) == (change, size, told)


def test_an_image_of_which_nothing_is_known_makes_the_sum_unknown() -> None:
    assert to_download(["a", "b"], [], {"a": Weight({"x": 1})}) is None
    assert to_download(["a", "a"], [], {"a": Weight({"x": 1})}) == 1


def manifest(architecture: str, *sizes: int) -> dict[str, Any]:
    layers = [{"digest": f"sha256:{size}", "size": size} for size in sizes]
    return {"Descriptor": {"platform": {"architecture": architecture}}, "SchemaV2Manifest": {"layers": layers}}


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        ([manifest("amd64", 1), manifest("arm64", 2, 3)], Weight({"sha256:2": 2, "sha256:3": 3})),
        (manifest("arm64", 2), Weight({"sha256:2": 2})),
        ([manifest("amd64", 1), manifest("arm", 2)], Weight({"sha256:2": 2})),
        (
            [manifest("amd64", 1), manifest("unknown", 9), manifest("386", 1)],
            Unweighed("x is for 386, amd64, not for arm64", is_wrong=True),
        ),
        ([{"Descriptor": None}, 5], Unweighed("x: its registry says nothing of layers")),
    ],
)
def test_what_a_registry_says_of_an_image(answer: Any, found: Weight | Unweighed) -> None:
    assert weight_in(json.dumps(answer).encode(), "x", "arm64") == found
