"""Runs a small cluster under load with a real Prometheus beside it, and asks that all that dashboards and alerts ask.

    python -m tools.scraped [--seconds 60] [--pictures docs]

Ends with 1 where a panel's query, a rule, or a metric that an alert looks at has no data.
"""

import argparse
import signal
import sys
import tempfile
import time
from pathlib import Path

import yaml

from tools.scraped.asked import JOB, Answer, panel_answers, rule_answers, target_answers
from tools.scraped.cluster import ROOT, ScrapedCluster
from tools.scraped.load import Load
from tools.scraped.picture import draw
from tools.scraped.prometheus import Prometheus, find_prometheus

RULES = ROOT / "deploy" / "prometheus"


def config_of(cluster: ScrapedCluster) -> str:
    """deploy/prometheus/prometheus.yml with this cluster's address and credential, more often."""
    tree = yaml.safe_load((RULES / "prometheus.yml").read_text(encoding="utf-8"))
    tree["global"] = {"scrape_interval": "1s", "evaluation_interval": "2s"}
    tree["rule_files"] = [str(RULES / name) for name in tree["rule_files"]]
    own, workers = tree["scrape_configs"]
    host = cluster.http.removeprefix("http://")
    credential = {"type": "Bearer", "credentials_file": str(cluster.token_file)}
    own |= {"static_configs": [{"targets": [host]}], "authorization": credential}
    (source,) = workers["http_sd_configs"]
    workers["authorization"] = credential
    workers["http_sd_configs"] = [
        {**source, "url": f"{cluster.http}/metrics/targets", "authorization": credential, "refresh_interval": "5s"}
    ]
    return yaml.safe_dump(tree)


def run(seconds: float, pictures: Path | None) -> list[Answer]:
    cluster = ScrapedCluster()
    try:
        config = cluster.home / "prometheus.yml"
        config.write_text(config_of(cluster))
        prometheus = Prometheus(Path(tempfile.mkdtemp(prefix="bp-", dir=cluster.home)), config)
        try:
            return observe(cluster, prometheus, seconds, pictures)
        finally:
            prometheus.close()
    finally:
        cluster.close()


def observe(cluster: ScrapedCluster, prometheus: Prometheus, seconds: float, pictures: Path | None) -> list[Answer]:
    started_s = time.time()
    load = Load(cluster.http, cluster.key)
    try:
        time.sleep(seconds)
        answers = [*target_answers(prometheus), *panel_answers(prometheus), *rule_answers(prometheus, RULES)]
        ended_s = time.time()
    finally:
        load.stop()
    print(f"{load.num_sent} requests in {ended_s - started_s:.0f} s; the cluster's job is {JOB!r}", flush=True)
    if pictures is not None:
        told = draw(prometheus, started_s, ended_s, pictures)
        print("\n".join(f"wrote {path}" for path in told), flush=True)
    return answers


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0, help="of load before anything is asked")
    parser.add_argument("--pictures", type=Path, help="folder for pictures of the dashboards' queries")
    options = parser.parse_args()
    if find_prometheus() is None:
        print("prometheus is not on the PATH; Debian's package is called prometheus")
        return 2
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # so that the cluster ends with us
    answers = run(options.seconds, options.pictures)
    for each in answers:
        print(f"{'FAIL' if each.fault else 'ok':5}{each.num_series:4}  {each.where:14} {each.what}  {each.fault}")
    failed = [each for each in answers if each.fault]
    print(f"{len(answers)} asked, {len(failed)} without an answer")
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
