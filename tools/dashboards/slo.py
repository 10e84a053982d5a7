"""Whether clients get what was promised."""

from tools.dashboards.panel import (
    JOB,
    MODEL,
    Dashboard,
    Kind,
    Panel,
    Query,
    Row,
    falling,
    lines,
    number,
    quantile,
    total,
)

MET = f'{MODEL},result="met"'


def bad_over(window: str) -> str:
    met, of_all = (f"sum(rate(baton_slo_requests_total{{{one}}}[{window}]))" for one in (MET, MODEL))
    return f"1 - {met} / {of_all}"


def burn_over(window: str) -> str:
    """How many times faster than allowed the budget is spent."""
    return f"({bad_over(window)}) / (1 - max(baton_slo_target_ratio{{{JOB}}}))"


SLO = Dashboard(
    name="slo",
    title="SLO",
    text="Share of requests within both limits (slo.ttft_ms, slo.tpot_ms), goodput, and how fast the budget burns.",
    rows=[
        Row(
            title="Now",
            panels=[
                Panel(
                    title="Attainment",
                    text="Share of requests that met both limits, over windows as the ingress counts them.",
                    queries=[Query(f"avg by (window) (baton_slo_attainment_ratio{{{MODEL}}})", "{{window}}")],
                    unit="percentunit",
                    kind=Kind.BARS,
                    height=8,
                    high=1,
                    steps=falling(0.8, 0.9),
                ),
                Panel(
                    title="Goodput",
                    text="Requests a second that met both limits, over windows.",
                    queries=[
                        Query(f"sum by (window) (baton_slo_goodput_requests_per_second{{{MODEL}}})", "{{window}}")
                    ],
                    unit="reqps",
                    kind=Kind.BARS,
                ),
                number(
                    "Target",
                    "Share that shall meet both limits (slo.attainment).",
                    f"max(baton_slo_target_ratio{{{JOB}}})",
                    "percentunit",
                ),
                number("TTFT limit", "slo.ttft_ms.", f"max(baton_slo_ttft_limit_seconds{{{JOB}}})", "s"),
                number("TPOT limit", "slo.tpot_ms.", f"max(baton_slo_tpot_limit_seconds{{{JOB}}})", "s"),
            ],
        ),
        Row(
            title="Over time",
            panels=[
                lines(
                    "Attainment, 5 minutes",
                    "Against the target.",
                    Query(f'avg(baton_slo_attainment_ratio{{{MODEL},window="5m"}})', "attained"),
                    Query(f"max(baton_slo_target_ratio{{{JOB}}})", "target"),
                    unit="percentunit",
                    high=1,
                ),
                lines(
                    "Requests by result",
                    "A second: met, or why not.",
                    Query(total("baton_slo_requests_total", "result", MODEL), "{{result}}"),
                    unit="reqps",
                    is_stacked=True,
                ),
                lines(
                    "Burn rate",
                    "How many times faster than allowed the budget of missed requests is spent: 1 uses it up exactly.",
                    Query(burn_over("5m"), "5m"),
                    Query(burn_over("1h"), "1h"),
                    Query(burn_over("6h"), "6h"),
                ),
                lines(
                    "TTFT against its limit",
                    "Ninth decile.",
                    Query(quantile(0.9, "baton_ttft_seconds", selector=MODEL), "p90"),
                    Query(f"max(baton_slo_ttft_limit_seconds{{{JOB}}})", "limit"),
                    unit="s",
                ),
                lines(
                    "TPOT against its limit",
                    "Ninth decile.",
                    Query(quantile(0.9, "baton_tpot_seconds", selector=MODEL), "p90"),
                    Query(f"max(baton_slo_tpot_limit_seconds{{{JOB}}})", "limit"),
                    unit="s",
                ),
                lines(
                    "Budget left of 6 hours",
                    "Share of the misses that the target allows, still unspent; below 0 it is overdrawn.",
                    Query(f"1 - {burn_over('6h')}", "left"),
                    unit="percentunit",
                    high=1,
                ),
            ],
        ),
    ],
)
