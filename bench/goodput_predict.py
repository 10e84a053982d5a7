"""What the simulator says to `bench.goodput`'s question, from a profile of this machine."""

from pathlib import Path

import numpy as np

from bench.goodput_load import Lengths
from bench.goodput_probe import Curve, Probe, Search
from cluster.commands.simulate.costs import from_profile
from cluster.config.schema import BatonConfig
from cluster.planner.search.goodput import highest_rate
from cluster.profiling.measure import MeasureProgress
from cluster.profiling.profile import take_profile
from cluster.simulator.report import is_finished
from cluster.simulator.world import simulate

NUM_REQUESTS = 800  # of a simulated probe, for each seed: it costs a second, and has less noise than a real one
SEEDS = (1, 2)


def profiled(config: BatonConfig, path: Path) -> Path:
    """`baton profile --quick`, written to `path`."""
    progress = MeasureProgress(phase=lambda name, count: None, advance=lambda: None)
    taken = take_profile(config, quick=True, progress=progress)
    path.write_text(taken.profile.to_text(), encoding="utf-8")
    for note in taken.notes:
        print(f"  profile: {note}", flush=True)
    return path


def predicted(name: str, config: BatonConfig, profile: Path, lengths: Lengths, plan: Search, *, guess: float) -> Curve:
    """The search begins at `guess`. Raises: ConfigError: the profile is of something else."""
    cluster, _ = from_profile(config, profile)
    curve = Curve(name=name)

    def attainment(rate: float) -> float:
        times_s = []
        for seed in SEEDS:
            arrivals = lengths.arrivals(rate, NUM_REQUESTS, seed, cluster.max_model_len)
            for record in simulate(cluster, arrivals, seed=seed).records:
                met = is_finished(record)
                times_s.append((record.ttft_s, record.tpot_s) if met else (float("inf"), float("inf")))
        ttft_s, tpot_s = np.array(times_s).T
        share = float(np.mean((ttft_s <= plan.slo.ttft_s) & (tpot_s <= plan.slo.tpot_s)))
        curve.probes.append(
            Probe(
                rate=rate,
                num_requests=len(times_s),
                attainment=share,
                is_cut=False,
                ttft_p90=float(np.percentile(ttft_s, 90)) * 1e3,
                tpot_p90=float(np.percentile(tpot_s, 90)) * 1e3,
                num_failed=int(np.isinf(ttft_s).sum()),
            )
        )
        return share

    curve.goodput = highest_rate(attainment, target=plan.slo.attainment, guess=guess, tolerance=plan.tolerance / 2)
    print(f"  {name}, simulated: {curve.goodput:.2f} requests/s, {len(curve.probes)} probes", flush=True)
    return curve
