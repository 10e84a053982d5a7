from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from baton.errors import ConfigError
from cluster.config.load import dump, load, loads
from cluster.config.schema import (
    BatonConfig,
    DraftPoolConfig,
    EngineConfig,
    GRPCConfig,
    HTTPConfig,
    LimitsConfig,
    PoolConfig,
    PoolsConfig,
)

DESIGN = """
model: demo
dtype: bfloat16
pools:
  prefill: {workers: 1, tensor_parallel: 1, sequence_parallel: 1}
  decode:  {workers: 1, tensor_parallel: 1}
  draft:   {workers: 0, model: demo-draft, layer_parallel: 2}
engine: {block_size: 16, memory: 1GiB, max_model_len: auto, max_batched_tokens: 512, max_sequences: 64}
kv:     {transport: auto, lease_s: 30}
slo:    {ttft_ms: 500, tpot_ms: 50, attainment: 0.9}
router: {max_queue: 256, disaggregate_over_tokens: 64, max_retries: 2, request_timeout_s: 600}
http:   {host: 127.0.0.1, port: 8000, replicas: 1}
grpc:   {port: 9000}
"""


def test_the_designs_yaml_is_the_default_config_but_for_its_model_and_dtype() -> None:
    config = loads(DESIGN)
    assert config.drafts_locally
    assert config.pools.draft == DraftPoolConfig(workers=0, model="demo-draft", layer_parallel=2)
    plain = replace(config, pools=replace(config.pools, draft=DraftPoolConfig()))
    assert plain == BatonConfig(model="demo", dtype="bfloat16")


def test_no_file_and_an_empty_file_are_the_defaults(tmp_path: Path) -> None:
    empty = tmp_path / "cluster.yaml"
    empty.write_text("")
    assert load(None) == load(empty) == BatonConfig()


def test_mixed_alone_means_no_prefill_and_no_decode_pool() -> None:
    pools = loads("pools: {mixed: {workers: 2}}").pools
    assert (pools.prefill.workers, pools.decode.workers, pools.mixed.workers) == (0, 0, 2)


def test_naming_one_pool_keeps_the_other_at_one_worker() -> None:
    pools = loads("pools: {decode: {workers: 3}}").pools
    assert (pools.prefill.workers, pools.decode.workers) == (1, 3)


DRAFT_POOL = """
pools:
  draft: {workers: 1, model: demo-draft, layer_parallel: 2}
speculation: {method: auto, max_tokens: 8, tree_width: 4}
"""


def test_a_draft_pool_stands_beside_one_prefill_and_one_decode_worker() -> None:
    config = loads(DRAFT_POOL)
    counts = {name: (pool.workers, pool.num_ranks) for name, pool in config.pools.by_name()}
    assert counts == {"prefill": (1, 1), "decode": (1, 1), "draft": (1, 2)}
    assert (config.speculation.max_tokens, config.speculation.tree_width) == (8, 4)
    assert not config.drafts_locally
    assert loads(dump(config)) == config


def test_a_draft_model_without_workers_is_kept_in_the_file_too() -> None:
    config = loads("pools: {mixed: {workers: 2}, draft: {workers: 0, model: demo-draft}}")
    assert config.drafts_locally
    assert loads(dump(config)) == config


@pytest.mark.parametrize("method", ["none", "ngram", "self"])
def test_a_draft_model_that_its_method_has_no_use_for_drafts_nowhere(method: str) -> None:
    config = loads(f"pools: {{draft: {{workers: 0, model: demo-draft}}}}\nspeculation: {{method: {method}}}")
    assert not config.drafts_locally


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("modle: x", "modle: unknown key; did you mean `model`?"),
        ("engine: {blocksize: 16}", "engine.blocksize: unknown key; did you mean `block_size`?"),
        ("pools: {encode: {workers: 1}}", "pools.encode: unknown key; did you mean `decode`?"),
        (
            "engine: {block_size: sixteen}",
            "engine.block_size: 'sixteen' is not a whole number; e.g. `engine.block_size: 16`",
        ),
        ("speculation: {tree_width: 17}", "speculation.tree_width"),
        ("engine: {block_size: true}", "engine.block_size: True is not a whole number"),
        ("engine: {prefix_cache: 1}", "engine.prefix_cache: 1 is not true or false; e.g. `engine.prefix_cache: true`"),
        ("engine: {memory: 1GB}", "engine.memory: '1GB' is no size; give bytes or KiB, MiB, GiB"),
        ("engine: {block_size: 0}", "engine.block_size: 0 is out of range; give 1 to 1024"),
        ("http: {port: 70000}", "http.port: 70000 is out of range; give 0 to 65535"),
        ("limits: {max_body: 16MB}", "limits.max_body: '16MB' is no size; give bytes or KiB, MiB, GiB"),
        ("limits: {max_header: 1MiB}", "limits.max_header: 1048576 is out of range; give 4096 to 122880"),
        ("limits: {body_timeout_s: 0}", "limits.body_timeout_s: 0.0 is out of range; give 0.1 to 3600"),
        ("slo: {ttft_ms: .nan}", "slo.ttft_ms: nan is out of range"),
        ("slo: {attainment: 0}", "slo.attainment: 0.0 is out of range; give 0.001 to 1"),
        (
            "planner: {min_workers: 3, max_workers: 2}",
            "planner.max_workers: 2 for all pools is below planner.min_workers",
        ),
        ("tracing: {otlp_endpoint: 'http://me:pass@h'}", "tracing.otlp_endpoint: its user and password is no address"),
        ("dtype: fp8", "dtype: 'fp8' is unknown; choose one of auto, bfloat16, float16, float32"),
        (
            "http: {cors_origins: '*'}",
            "http.cors_origins: '\\*' is no list; e.g. `http.cors_origins: \\[https://app.exam",
        ),
        (
            "http: {cors_origins: ['*', https://a.b]}",
            "http.cors_origins: '\\*' is every origin already; leave the others",
        ),
        (
            "http: {cors_origins: [https://a.b/]}",
            "'https://a.b/' is no origin as browsers send it; did you mean https://a.b?",
        ),
        (
            "http: {cors_origins: [HTTPS://A.b]}",
            "'HTTPS://A.b' is no origin as browsers send it; did you mean https://a.b?",
        ),
        ("http: {cors_origins: [a.b]}", "'a.b' is no origin as browsers send it; write scheme://host"),
        ("http: {cors_origins: ['null']}", "'null' is no origin as browsers send it; write scheme://host"),
        ("http: {cors_origins: [5]}", "http.cors_origins: 5 is no origin as browsers send it; write scheme://host"),
        (
            "http: {cors_origins: ['https://a.b:443']}",
            "has its scheme's own port, which browsers leave out; leave out :443",
        ),
        ("allow_special_tokens: 1", "allow_special_tokens: 1 is not true or false; e.g. `allow_special_tokens: true`"),
        ("tools: {parser: 3}", "tools.parser: 3 is not text; e.g. `tools.parser: auto`"),
        ("tools: {format: qwen3}", "tools.format: unknown key; known here: parser"),
        ("generation_defaults: auto", "generation_defaults: 'auto' is unknown; choose one of model, neutral"),
        ("kv: {dtype: int8}", "kv.dtype: 'int8' is unknown; choose one of auto, fp8"),
        ("kv: {dtype: fp8}\ndevice: cpu", "kv.dtype: fp8 is read by a GPU's kernels, and device is cpu; set kv.dtype"),
        ("kv: {dtype: fp8}\nload_format: fake", "kv.dtype: fp8 is of the keys and values of a model, and load_format"),
        (
            "kv: {transport: rdma}",
            "kv.transport: 'rdma' is unknown; choose one of auto, shm, nccl, gloo, grpc, cuda_ipc",
        ),
        (
            "model: smollm2\npools: {draft: {workers: 2}}",
            "pools.draft.model: is left out, and for 2 draft workers smollm2 has no draft model of its own",
        ),
        (
            "model: smollm2\nspeculation: {method: draft}",
            "pools.draft.model: is left out, and for speculation.method: draft smollm2 has no draft model",
        ),
        (
            "pools: {draft: {model: d, tensor_parallel: 2}}",
            "pools.draft.tensor_parallel: 2 is not supported yet; ranks of a draft worker divide its layers: set",
        ),
        ("pools: {draft: {model: d, sequence_parallel: 2}}", "pools.draft.sequence_parallel: 2 is not supported yet"),
        ("pools: {draft: {model: d, layer_parallel: 0}}", "pools.draft.layer_parallel: 0 is out of range; give 1 to"),
        ("pools: {draft: {model: 3}}", "pools.draft.model: 3 is not text"),
        ("pools: {draft: {model: d, workers: 2, cores: [[0]]}}", "pools.draft.cores: 1 lists for 2 workers"),
        (
            "pools: {decode: {layer_parallel: 2}}",
            "pools.decode.layer_parallel: 2 is not supported yet; layers are divided by draft workers alone: set it in",
        ),
        (
            "pools: {mixed: {model: demo}}",
            "pools.mixed.model: 'demo' is not supported yet; these workers serve `model`",
        ),
        (
            "pools: {draft: {model: d}}\nspeculation: {method: ngram}",
            "pools.draft.workers: 1 would idle, since speculation.method 'ngram' drafts without them; set it to",
        ),
        (
            "pools: {draft: {model: d}}\nspeculation: {method: none}",
            "pools.draft.workers: 1 would idle, since speculation.method 'none' drafts without them",
        ),
        ("pools: {decode: {tensor_parallel: 65}}", "pools.decode.tensor_parallel: 65 is out of range; give 1 to 64"),
        ("pools: {mixed: {tensor_parallel: 0}}", "pools.mixed.tensor_parallel: 0 is out of range; give 1 to 64"),
        (
            "pools: {mixed: {sequence_parallel: 2}}",
            "pools.mixed.sequence_parallel: 2 is not supported yet; prompts are divided by prefill workers alone: set",
        ),
        (
            "pools: {decode: {sequence_parallel: 2}}",
            "pools.decode.sequence_parallel: 2 is not supported yet; prompts are",
        ),
        ("pools: {mixed: {placement: near}}", "pools.mixed.placement: 'near' is unknown; choose one of pack, spread"),
        (
            "pools: {prefill: {sequence_parallel: 0}}",
            "pools.prefill.sequence_parallel: 0 is out of range; give 1 to 64",
        ),
        (
            "pools: {prefill: {sequence_parallel: 65}}",
            "pools.prefill.sequence_parallel: 65 is out of range; give 1 to 64",
        ),
        (
            "pools: {prefill: {sequence_parallel: 16, tensor_parallel: 8}}",
            "pools.prefill.sequence_parallel: 16 times tensor_parallel 8 are 128 ranks for one worker; 64 are the most",
        ),
        (
            "engine: {sequence_parallel_over_tokens: 64}",
            "engine.sequence_parallel_over_tokens: 64 is for prompts that ranks divide; set",
        ),
        (
            "engine: {sequence_parallel_over_tokens: 1}",
            "engine.sequence_parallel_over_tokens: 1 is out of range; give 2 to 1073741824",
        ),
        ("pools: {mixed: {workers: 1}, decode: {workers: 1}}", "pools.mixed.workers: 1 beside 1 prefill and decode"),
        ("pools: {prefill: {workers: 0}}", "pools.prefill.workers: 0 leaves nobody"),
        ("pools: {decode: {workers: -1}}", "pools.decode.workers: -1 is out of range"),
        ("pools: {decode: {workers: 2, cores: [[0]]}}", "pools.decode.cores: 1 lists for 2 workers"),
        ("pools: {decode: {cores: [0, 1]}}", "pools.decode.cores: \\[0, 1\\] is no list of core numbers per worker"),
        ("pools: 3", "pools: 3 is not a section"),
        ("grpc: {port: 8000}", "grpc.port: 8000 is http.port too"),
        ("engine: {max_model_len: 8}", "engine.max_model_len: 8 is below engine.block_size 16"),
        ("engine: {state_cache_spacing: 24}", "engine.state_cache_spacing: 24 tokens are no multiple of"),
        ("engine: {state_cache_spacing: 32, prefix_cache: false}", "which engine.prefix_cache turns off"),
        (
            "engine: {state_cache_spacing: 512, max_model_len: 512}",
            "engine.state_cache_spacing: 512 tokens are not below",
        ),
        ("engine: {max_batched_tokens: 64}", "engine.max_batched_tokens: 64 leaves prompts nothing"),
        ("- model", "the config: holds \\['model'\\], not keys"),
        ("model: [", "the config: is no YAML at line 1"),
        ("model: 2030-02-31", "the config: has a value that cannot be"),
        ("model: demo\n\tdtype: x", "the config: is no YAML at line 2"),
        ("http: {port: 1}\nmodel: demo\nhttp: {port: 2}", "http: stands twice in one section, again at line 3"),
        ("engine: {memory: 1GiB, memory: 2GiB}", "memory: stands twice in one section, again at line 1"),
        ("speculation: {tree_width: 17}", "speculation.tree_width: 17 is out of range; give 1 to 16"),
        (
            "speculation: {method: eagle}",
            "speculation.method: 'eagle' is unknown; choose one of auto, none, ngram, self, draft",
        ),
        ("model: ''", "model: is empty; give `smollm2`, a folder, a GGUF file, or a Hub id, or leave it out"),
    ],
)
def test_an_error_names_key_value_and_fix(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message.replace("{", r"\{").replace("?", r"\?")) as caught:
        loads(text)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nothing\.yaml: cannot be read"):
        load(tmp_path / "nothing.yaml")


def test_overrides_win_over_the_file_and_keep_the_rest(tmp_path: Path) -> None:
    path = tmp_path / "cluster.yaml"
    path.write_text("http: {port: 8100, replicas: 2}\nengine: {memory: 64MiB}")
    config = load(path, {"http.port": "0", "pools.prefill.workers": "2", "dtype": "float32", "engine.memory": "32MiB"})
    assert config.http == HTTPConfig(port=0, replicas=2)
    assert config.pools.prefill.workers == 2
    assert config.dtype == "float32"
    assert config.engine.memory_bytes == 32 << 20


def test_an_override_of_an_unknown_key_is_named() -> None:
    with pytest.raises(ConfigError, match=r"http\.prot: unknown key; did you mean `port`"):
        load(None, {"http.prot": "1"})


def test_dump_writes_the_yamls_own_words() -> None:
    text = dump(BatonConfig(engine=EngineConfig(memory_bytes=3 << 20)))
    assert "memory: 3MiB" in text
    assert "max_model_len: auto" in text
    assert "mixed" not in text


_pools = st.one_of(
    st.builds(
        lambda prefill, decode: PoolsConfig(prefill=PoolConfig(workers=prefill), decode=PoolConfig(workers=decode)),
        st.integers(1, 9),
        st.integers(1, 9),
    ),
    st.builds(lambda n: PoolsConfig(mixed=PoolConfig(workers=n, cores=((0, 1),) * n)), st.integers(1, 9)),
)


@given(
    st.builds(
        BatonConfig,
        model=st.sampled_from(["demo", "./folder", "org/name", "null", "1"]),
        pools=_pools,
        engine=st.builds(
            EngineConfig,
            memory_bytes=st.integers(1 << 16, 1 << 40),
            max_model_len=st.none() | st.integers(1024, 1 << 20),
            prefix_cache=st.booleans(),
        ),
        grpc=st.builds(GRPCConfig, port=st.integers(0, 7999)),
        http=st.builds(HTTPConfig, cors_origins=st.sampled_from([(), ("*",), ("https://a.b", "http://[::1]:3000")])),
        limits=st.builds(LimitsConfig, max_body_bytes=st.integers(1 << 10, 1 << 30)),
    )
)
def test_what_is_dumped_loads_as_the_same_config(config: BatonConfig) -> None:
    assert loads(dump(config)) == config
