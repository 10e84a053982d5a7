"""Who reaches what, and where secrets stand."""

import base64
import re

import pytest
import yaml

from cluster.config.api_keys import parse_keys
from tests.deploy.helm.chart import (
    CHART,
    VALUE_FILES,
    Object,
    containers,
    groups,
    named,
    of_kind,
    pods,
    ray_spec,
    render,
    render_with,
)


@pytest.fixture(params=VALUE_FILES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def matches(selector: Object, labels: Object) -> bool:
    return bool(selector.items() <= labels.items())


def test_every_selector_finds_pods(name: str) -> None:
    labels = [pod["metadata"].get("labels", {}) for _, pod in pods(render(name))]
    selectors = [one["spec"]["selector"] for one in of_kind(render(name), "Service")]
    selectors += [one["spec"]["selector"]["matchLabels"] for one in of_kind(render(name), "PodDisruptionBudget")]
    selectors += [one["spec"]["podSelector"]["matchLabels"] for one in of_kind(render(name), "NetworkPolicy")]
    selectors += [one["spec"]["selector"]["matchLabels"] for one in of_kind(render(name), "PodMonitor")]
    fetches = {"baton.dev/fetches": "true"}
    for selector in selectors:
        assert any(matches(selector, each) for each in labels) or fetches.items() <= selector.items(), selector


def test_the_service_reaches_the_pods_that_have_an_ingress_alone(name: str) -> None:
    (service,) = of_kind(render(name), "Service")
    found = {
        whose for whose, pod in pods(render(name)) if matches(service["spec"]["selector"], pod["metadata"]["labels"])
    }
    assert found == ({"ingress"} if "ingress" in groups(render(name)) else {"head"})
    for whose in found:
        ports = {port["name"] for port in groups(render(name))[whose]["template"]["spec"]["containers"][0]["ports"]}
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports


def test_routes_and_monitors_name_ports_of_the_service() -> None:
    (service,) = of_kind(render("tls-keys"), "Service")
    ports = {port["port"] for port in service["spec"]["ports"]}
    for kind in ("HTTPRoute", "GRPCRoute"):
        (route,) = of_kind(render("tls-keys"), kind)
        assert {backend["port"] for rule in route["spec"]["rules"] for backend in rule["backendRefs"]} <= ports
    (monitor,) = of_kind(render("tls-keys"), "ServiceMonitor")
    assert matches(monitor["spec"]["selector"]["matchLabels"], service["metadata"]["labels"])
    assert monitor["spec"]["endpoints"][0]["port"] in {port["name"] for port in service["spec"]["ports"]}


def test_an_ingress_names_the_services_ports() -> None:
    ingresses = of_kind(render("cpu"), "Ingress")
    backends = [rule["http"]["paths"][0]["backend"]["service"] for one in ingresses for rule in one["spec"]["rules"]]
    assert backends == [{"name": "baton", "port": {"name": "http"}}, {"name": "baton", "port": {"name": "grpc"}}]


def test_no_secret_stands_in_plain_text(name: str) -> None:
    """Not in a pod's environment, a config or an argument: only in Secrets, and by name everywhere else."""
    for one in render(name):
        if one["kind"] != "Secret":
            assert "placeholder" not in yaml.safe_dump(one)
    for whose, container in containers(render(name)):
        for variable in container.get("env", []):
            if re.search("TOKEN|KEY|PASSWORD|SECRET", variable["name"]):
                assert "value" not in variable, f"{whose} {variable['name']}"


def test_a_secret_that_is_named_is_not_made() -> None:
    assert of_kind(render("tls-keys"), "Secret") == []
    head = yaml.safe_dump(ray_spec(render("tls-keys"))["headGroupSpec"])
    assert {"baton-api-keys", "baton-certificate", "baton-internal"} <= set(re.findall(r"baton-[a-z-]+", head))


def test_secrets_that_the_chart_makes_are_long_unlike_and_stay() -> None:
    secret = named(render("made-secrets"), "Secret", "baton-internal")
    assert secret["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
    made = [base64.b64decode(secret["data"][key]).decode() for key in ("cluster-secret", "auth_token")]
    assert made[0] != made[1]
    assert all(len(one) == 64 for one in made)
    again = named(render_with(), "Secret", "baton-internal")
    assert again["data"] != secret["data"]


def test_keys_and_certificates_are_in_pods_with_a_proxy_alone() -> None:
    objects = render_with("--values", str(CHART / "ci" / "tls-keys.yaml"), "--set-string", "config=http: {replicas: 2}")
    for name, group in groups(objects).items():
        (volume,) = (one for one in group["template"]["spec"]["volumes"] if one["name"] == "config")
        assert any("secret" in source for source in volume["projected"]["sources"]) is (name in ("head", "ingress"))


def test_the_hubs_token_is_where_models_are_fetched_alone() -> None:
    for whose, container in containers(render("xpyd")):
        has_token = "HF_TOKEN" in {variable["name"] for variable in container.get("env", [])}
        assert has_token is (whose == "fetch/fetch-model"), whose


def test_a_policy_lets_nobody_in_but_the_clusters_own_pods_and_clients() -> None:
    policies = {one["metadata"]["name"]: one["spec"] for one in of_kind(render("xpyd"), "NetworkPolicy")}
    own = {"podSelector": {"matchLabels": {"baton.dev/cluster": "baton"}}}
    assert policies["baton"]["ingress"] == [{"from": [own]}]
    assert policies["baton"]["policyTypes"] == ["Ingress", "Egress"]
    assert policies["baton-clients"]["ingress"][0]["from"] == [
        {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "gateway"}}}
    ]
    everywhere = [rule["to"] for rule in policies["baton"]["egress"]]
    assert everywhere[0] == [own]
    assert "0.0.0.0/0" not in yaml.safe_dump(policies["baton"])


def test_with_a_shared_claim_the_job_alone_goes_out_for_models() -> None:
    policy = next(one for one in of_kind(render("xpyd"), "NetworkPolicy") if one["metadata"]["name"] == "baton-fetch")
    selector = policy["spec"]["podSelector"]["matchLabels"]
    assert [whose for whose, pod in pods(render("xpyd")) if matches(selector, pod["metadata"].get("labels", {}))] == [
        "fetch"
    ]


def test_the_head_alone_reaches_redis_and_the_api_server() -> None:
    policies = {one["metadata"]["name"]: one["spec"] for one in of_kind(render("autoscaling"), "NetworkPolicy")}
    assert policies["baton-head"]["podSelector"]["matchLabels"]["baton.dev/pool"] == "head"
    ports = {port["port"] for rule in policies["baton-head"]["egress"] for port in rule["ports"]}
    assert ports == {443, 6443, 6379}
    assert "baton-head" not in {one["metadata"]["name"] for one in of_kind(render("xpyd"), "NetworkPolicy")}


def test_the_test_shows_a_client_certificate_where_one_is_asked_for() -> None:
    (pod,) = of_kind(render("tls-keys"), "Pod")
    assert "baton-test-client" in yaml.safe_dump(pod)
    assert of_kind(render_with("--set", "tls.enabled=true,tls.existingSecret=a,tls.clientCa=true"), "Pod") == []


def test_there_is_no_test_without_a_key_where_one_is_asked_for() -> None:
    assert of_kind(render_with("--set", "auth.enabled=true,auth.existingSecret=a"), "Pod") == []
    with_key = "auth.enabled=true,auth.existingSecret=a,tests.apiKeySecret.name=b"
    assert len(of_kind(render_with("--set", with_key), "Pod")) == 1


def test_the_test_is_let_in_where_few_clients_are() -> None:
    policies = {one["metadata"]["name"]: one["spec"] for one in of_kind(render("xpyd"), "NetworkPolicy")}
    (pod,) = of_kind(render("xpyd"), "Pod")
    (peer,) = policies["baton-clients"]["ingress"][1]["from"]
    assert matches(peer["podSelector"]["matchLabels"], pod["metadata"]["labels"])


def test_prometheus_shows_what_the_doors_ask_for() -> None:
    (monitor,) = of_kind(render("tls-keys"), "ServiceMonitor")
    (endpoint,) = monitor["spec"]["endpoints"]
    assert endpoint["tlsConfig"]["keySecret"]["name"] == "baton-metrics-client"
    assert endpoint["authorization"]["credentials"]["name"] == "baton-metrics-key"


def test_the_servers_own_reader_takes_the_keys_that_the_chart_writes() -> None:
    secret = named(render("made-secrets"), "Secret", "baton-keys")
    (key,) = parse_keys(yaml.safe_load(base64.b64decode(secret["data"]["keys.yaml"]))["keys"], "keys")
    assert (key.name, key.limits.requests_per_minute) == ("ada", 60)


def test_the_service_account_has_no_rights() -> None:
    for name in VALUE_FILES:
        assert not {one["kind"] for one in render(name)} & {"Role", "ClusterRole", "RoleBinding", "ClusterRoleBinding"}
        for account in of_kind(render(name), "ServiceAccount"):
            assert account["automountServiceAccountToken"] is False
