"""Where the time of a request goes."""

from tools.dashboards.panel import MODEL, Dashboard, Query, Row, lines, mean, quantile, quantiles, total

SERVING = f'{MODEL},role!="draft"'


def phase(metric: str, name: str) -> Query:
    return Query(mean(metric, selector=MODEL), name)


REQUEST = Dashboard(
    name="request",
    title="A request's phases",
    text="From arrival to the last token: what clients see, and which phase it comes from.",
    rows=[
        Row(
            title="What clients see",
            panels=[
                lines(
                    "Time to first token",
                    "From arrival to the first token of a choice.",
                    *quantiles("baton_ttft_seconds", MODEL),
                    unit="s",
                ),
                lines(
                    "Inter-token latency",
                    "Gap between tokens of a choice.",
                    *quantiles("baton_itl_seconds", MODEL),
                    unit="s",
                ),
                lines(
                    "Time per output token",
                    "Mean gap between the tokens of one request: what the SLO speaks of.",
                    *quantiles("baton_tpot_seconds", MODEL),
                    unit="s",
                ),
                lines(
                    "End to end",
                    "From arrival to the end of the answer.",
                    *quantiles("baton_e2e_seconds", MODEL),
                    unit="s",
                ),
                lines(
                    "Mean time by phase",
                    "Queue at the router, queue at workers, reading the prompt, hand-over that "
                    "computing did not hide, writing. Of requests that had the phase; medians do not add up, means "
                    "nearly do.",
                    phase("baton_queue_seconds", "router queue"),
                    phase("baton_worker_queue_seconds", "worker queue"),
                    phase("baton_worker_prefill_seconds", "prefill"),
                    phase("baton_worker_kv_exposed_seconds", "hand-over, exposed"),
                    phase("baton_decode_seconds", "decode"),
                    unit="s",
                    width=16,
                    is_stacked=True,
                ),
            ],
        ),
        Row(
            title="Phase by phase",
            panels=[
                lines(
                    "Router queue",
                    "Until a request was sent to its first worker: above 0 where router.max_running "
                    "are running or no worker is there.",
                    *quantiles("baton_queue_seconds", MODEL),
                    unit="s",
                ),
                lines(
                    "Worker queue",
                    "From arrival at a worker until it was admitted to the batch.",
                    Query(quantile(0.5, "baton_worker_queue_seconds", "role", SERVING), "{{role}} p50"),
                    Query(quantile(0.9, "baton_worker_queue_seconds", "role", SERVING), "{{role}} p90"),
                    unit="s",
                ),
                lines(
                    "Prefill",
                    "From then until the prompt was read.",
                    Query(quantile(0.5, "baton_worker_prefill_seconds", "role", SERVING), "{{role}} p50"),
                    Query(quantile(0.9, "baton_worker_prefill_seconds", "role", SERVING), "{{role}} p90"),
                    unit="s",
                ),
                lines(
                    "Ticket",
                    "From the offer of a hand-over until the decode worker had blocks for it.",
                    *quantiles("baton_worker_kv_ticket_seconds", MODEL),
                    unit="s",
                ),
                lines(
                    "Hand-over, exposed",
                    "From the end of the prompt's computing until the decode worker had all of its KV.",
                    *quantiles("baton_worker_kv_exposed_seconds", MODEL),
                    unit="s",
                ),
                lines(
                    "Decode", "From the first token to the end.", *quantiles("baton_decode_seconds", MODEL), unit="s"
                ),
            ],
        ),
        Row(
            title="What is asked",
            panels=[
                lines(
                    "Prompt length", "Tokens of a request's prompts.", *quantiles("baton_request_prompt_tokens", MODEL)
                ),
                lines(
                    "Answer length", "Tokens of a request's answers.", *quantiles("baton_request_output_tokens", MODEL)
                ),
                lines(
                    "Cached share of prompts",
                    "Prompt tokens that needed no computing.",
                    Query(
                        f"{total('baton_cached_tokens_total', selector=MODEL)} / "
                        f"{total('baton_prompt_tokens_total', selector=MODEL)}",
                        "cached",
                    ),
                    unit="percentunit",
                    high=1,
                ),
            ],
        ),
    ],
)
