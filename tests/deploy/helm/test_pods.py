"""Pods of all value files: safe by what they may do, watched by probes, alike in their labels."""

import re
import subprocess

import pytest

from tests.deploy.helm.chart import VALUE_FILES, containers, groups, of_kind, pods, ray_spec, render, render_with

UID = 10001


@pytest.fixture(params=VALUE_FILES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_no_pod_may_more_than_it_needs(name: str) -> None:
    for whose, pod in pods(render(name)):
        spec = pod["spec"]
        security = spec["securityContext"]
        assert security["runAsNonRoot"], whose
        assert security["runAsUser"] == UID
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}
        assert spec["automountServiceAccountToken"] is False
        assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys()


def test_no_container_is_privileged_or_writes_to_its_image(name: str) -> None:
    for whose, container in containers(render(name)):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }, whose


def test_every_image_is_of_one_version(name: str) -> None:
    images = {container["image"] for _, container in containers(render(name))}
    (image,) = images
    assert re.search(r":\d+\.\d+\.\d+$|@sha256:[0-9a-f]{64}$", image)
    assert "latest" not in image


def test_every_container_says_what_it_needs_and_takes_no_more(name: str) -> None:
    for whose, container in containers(render(name)):
        for kind in ("requests", "limits"):
            assert {"cpu", "memory"} <= container["resources"][kind].keys(), whose


def test_what_runs_is_watched(name: str) -> None:
    for group in groups(render(name)).values():
        for container in group["template"]["spec"]["containers"]:
            is_started_again = name != "autoscaling" or container["name"] != "baton"
            assert "readinessProbe" in container
            assert ("livenessProbe" in container) is is_started_again


def test_a_keeper_that_ends_is_started_again_where_kuberay_restarts_nothing() -> None:
    (_, keeper) = groups(render("autoscaling"))["head"]["template"]["spec"]["containers"]
    script = keeper["command"][2].replace("baton keep", "echo kept").replace("sleep 5", "sleep 0.1")
    process = subprocess.Popen(["sh", "-c", script], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert [process.stdout.readline().split()[0] for _ in range(2)] == ["kept", "kept"]
    process.terminate()
    assert process.wait(timeout=10) == 0
    process.stdout.close()
    (_, plain) = groups(render("minimal"))["head"]["template"]["spec"]["containers"]
    assert plain["command"] == ["baton", "keep", "/etc/baton/cluster.yaml", "--replace"]


def test_a_probe_that_names_a_port_names_one_of_its_own_container(name: str) -> None:
    for whose, container in containers(render(name)):
        known = {port["name"] for port in container.get("ports", [])}
        probes = [container[kind] for kind in ("startupProbe", "livenessProbe", "readinessProbe") if kind in container]
        asked = [probe[how]["port"] for probe in probes for how in ("httpGet", "tcpSocket") if how in probe]
        assert {port for port in asked if isinstance(port, str)} <= known, whose


def test_every_mount_has_its_volume_and_none_is_twice(name: str) -> None:
    for whose, pod in pods(render(name)):
        volumes = [volume["name"] for volume in pod["spec"]["volumes"]]
        assert len(volumes) == len(set(volumes)), whose
        for container in [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]:
            mounts = container["volumeMounts"]
            assert {mount["name"] for mount in mounts} <= set(volumes)
            assert len({mount["mountPath"] for mount in mounts}) == len(mounts)


def test_rays_own_container_is_the_first_with_shared_memory_and_a_place_to_write(name: str) -> None:
    for group in groups(render(name)).values():
        first = group["template"]["spec"]["containers"][0]
        assert first["name"] in ("ray-head", "ray-worker")
        assert {"/dev/shm", "/tmp", "/tmp/ray", "/home/baton", "/cache"} <= {
            mount["mountPath"] for mount in first["volumeMounts"]
        }
        (shared,) = (one for one in group["template"]["spec"]["volumes"] if one["name"] == "shared-mem")
        assert shared["emptyDir"]["medium"] == "Memory"
        assert shared["emptyDir"]["sizeLimit"]


def test_kuberays_own_rules_hold(name: str) -> None:
    """It refuses resources that stand in two places, and labels among Ray's parameters."""
    for group in groups(render(name)).values():
        assert not {"num-cpus", "num-gpus", "memory", "resources", "labels"} & group["rayStartParams"].keys()


def test_a_door_is_ready_when_requests_are_answered() -> None:
    container = groups(render("minimal"))["head"]["template"]["spec"]["containers"][1]
    assert container["readinessProbe"]["httpGet"] == {"path": "/health", "port": 8000, "scheme": "HTTP"}
    replica = groups(render("cpu"))["ingress"]["template"]["spec"]["containers"][0]
    assert replica["readinessProbe"]["httpGet"] == {"path": "/health", "port": 8080, "scheme": "HTTP"}
    with_tls = groups(render("made-secrets"))["head"]["template"]["spec"]["containers"][1]
    assert with_tls["readinessProbe"]["httpGet"]["scheme"] == "HTTPS"
    mutual = groups(render("tls-keys"))["head"]["template"]["spec"]["containers"][1]
    assert mutual["readinessProbe"]["tcpSocket"] == {"port": 8443}


def test_kuberay_need_not_cut_the_longest_name() -> None:
    """It takes names of up to 50 characters as they are; a cut account would be another one, with rights of its own."""
    name = "b" * 40
    objects = render_with("--set", f"autoscaling.enabled=true,fullnameOverride={name}")
    account = ray_spec(objects)["headGroupSpec"]["template"]["spec"]["serviceAccountName"]
    assert len(account) <= 50
    assert account in {one["metadata"]["name"] for one in of_kind(objects, "ServiceAccount")}


def test_the_autoscaler_alone_has_a_token() -> None:
    spec = ray_spec(render("autoscaling"))
    where = "/var/run/secrets/kubernetes.io/serviceaccount"
    assert where in {mount["mountPath"] for mount in spec["autoscalerOptions"]["volumeMounts"]}
    for _, container in containers(render("autoscaling")):
        assert where not in {mount["mountPath"] for mount in container["volumeMounts"]}


def test_a_group_has_what_pod_defaults_and_its_own_keys_say() -> None:
    made = groups(render("hybrid-sequence-parallel"))
    prefill, decode = made["prefill"]["template"], made["decode"]["template"]
    assert prefill["spec"]["schedulerName"] == decode["spec"]["schedulerName"] == "volcano"
    assert prefill["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "long-prompts"
    assert "kueue.x-k8s.io/queue-name" not in decode["metadata"]["labels"]
    assert prefill["spec"]["terminationGracePeriodSeconds"] == 120
    assert {"name": "NCCL_SOCKET_IFNAME", "value": "eth0"} in prefill["spec"]["containers"][0]["env"]


def test_a_spread_constraint_is_of_its_groups_pods() -> None:
    for group in ("decode", "ingress"):
        pod = groups(render("cpu"))[group]["template"]
        (constraint,) = pod["spec"]["topologySpreadConstraints"]
        assert constraint["labelSelector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
        assert constraint["labelSelector"]["matchLabels"]["baton.dev/pool"] == group
