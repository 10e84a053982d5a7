"""A wrong value is refused by name, with what to do."""

import re

import pytest

from tests.deploy.helm.chart import refusal

SHA = "a" * 64


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ("groups.decode.replicas=3", "replicas"),
        ("gpus.enabled=true", "gpus"),
        ("groups.decode.maxUnavailable=-1", "/groups/decode/maxUnavailable"),
        ("modelCache.type=nfs", "/modelCache/type"),
        ("groups.head.shmSize=lots", "/groups/head/shmSize"),
        ("groups.decode.resources.limits.nvidia\\.com/gpu=1", "nvidia.com/gpu"),
        ("groups.decode.pod.tolerations.key=x", "/groups/decode/pod/tolerations"),
        ("groups.decode.pod.nodeSelektor.a=b", "nodeSelektor"),
        ("service.httpPort=70000", "/service/httpPort"),
        ("auth.enabled=true,auth.keys[0].name=ada", "sha256"),
        ("auth.enabled=true,auth.keys[0].name=ada,auth.keys[0].sha256=secret", "/auth/keys/0/sha256"),
        ("image.tag=latest", "/image/tag"),
        ("upgradeStrategy=Rolling", "/upgradeStrategy"),
        ("config.modle=demo", "modle"),
        ("config.pools.decode.workers=two", "/config/pools/decode/workers"),
        ("config.pools.decode.workers=5000", "/config/pools/decode/workers"),
        ("config.kv.transport=rdma", "/config/kv/transport"),
        ("config.limits.max_body=32MB", "/config/limits/max_body"),
    ],
)
def test_by_the_schema(values: str, said: str) -> None:
    assert said in refusal("--set", values)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ("fullnameOverride=" + "a" * 41, "fullnameOverride: .* 41 characters"),
        ("fullnameOverride=9lives", "fullnameOverride: .* begin with a letter"),
        ("config.http.port=0", "config.http.port: 0 takes any free port"),
        ("config.grpc.port=443", "config.grpc.port: 443 is for root alone"),
        ("config.device=cuda", "gpu.enabled: false, but config.device is cuda"),
        ("config.device=cpu,gpu.enabled=true", "gpu.enabled: true, but config.device is cpu"),
        ("config.http.node_resource=doors", "config.http.node_resource: doors, but pods with an ingress offer none"),
        ("config.kv.transport=shm", "config.kv.transport: shm joins workers of one host"),
        ("config.models.v1.model=demo", "config.models: the chart makes groups of pods for the pools of one model"),
        ("config.pools.decode.cores[0][0]=1", "config.pools.decode.cores: a pod's cores"),
        ("groups.decode.autoscaling.maxWorkers=3", "of no use while autoscaling.enabled is false"),
        (
            "autoscaling.enabled=true,groups.decode.autoscaling.maxWorkers=2,config.pools.decode.workers=3",
            "groups.decode.autoscaling.maxWorkers: 2, but config.pools.decode.workers is 3",
        ),
        (
            "autoscaling.enabled=true,groups.decode.autoscaling.minWorkers=2",
            "groups.decode.autoscaling.minWorkers: 2 is above maxWorkers 1",
        ),
        ("auth.enabled=true", "auth.enabled: true without keys"),
        ("auth.existingSecret=keys", "auth.enabled: false with keys given"),
        (f"auth.enabled=true,auth.existingSecret=k,auth.keys[0].name=a,auth.keys[0].sha256={SHA}", "auth.keys: would"),
        ("tls.enabled=true", "tls.enabled: true without a certificate"),
        ("tls.enabled=true,tls.existingSecret=a,tls.key=b", "tls.certificate, tls.key, tls.ca: would"),
        ("tls.existingSecret=a", "tls.enabled: false with a certificate"),
        ("tls.enabled=true,tls.certificate=a,tls.key=b,tls.clientCa=true", "tls.clientCa: true without a CA"),
        ("hub.token=a,hub.existingSecret=b", "hub.token: would be left out"),
        ("modelCache.type=hostPath", "modelCache.hostPath: is empty"),
        ("modelCache.existingClaim=a", "modelCache.existingClaim: a is of no use"),
        ("gcsFaultTolerance.enabled=true", "gcsFaultTolerance.redisAddress: is empty"),
        (
            "monitoring.serviceMonitor.enabled=true,auth.enabled=true,auth.existingSecret=k",
            "monitoring.bearerTokenSecret.name: is empty",
        ),
        (
            "monitoring.serviceMonitor.enabled=true,tls.enabled=true,tls.existingSecret=k,tls.clientCa=true",
            "monitoring.clientCertificateSecret: is empty",
        ),
        ("gateway.enabled=true", "gateway.parentRefs: is empty"),
        ("ingress.enabled=true", "ingress.host: is empty"),
        ("serviceAccount.create=false", "serviceAccount.name: is empty"),
    ],
)
def test_values_that_do_not_go_together(values: str, said: str) -> None:
    assert re.search(said, refusal("--set", values))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("pools: {decod: {}}", "config.pools.decod: unknown key; known here: decode, draft, mixed, prefill"),
        ("modle: demo", "config.modle: unknown key"),
        ("http: 8000", "config.http: 8000 is not a section"),
        ("model: [", "config: is no YAML"),
        ("tls: {certificate: a}", "config.tls"),
    ],
)
def test_a_file_with_a_wrong_key(text: str, said: str) -> None:
    assert said in refusal("--set-string", f"config={text.replace(',', chr(92) + ',')}")
