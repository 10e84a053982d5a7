"""Blocks, the prefix cache and the links between workers."""

from tools.dashboards.panel import MODEL, Dashboard, Query, Row, lines, number, quantile, rising, total

USED = f'sum(baton_worker_blocks{{{MODEL},state=~"referenced|quarantined"}})'
ALL = f"sum(baton_worker_blocks{{{MODEL}}})"
HITS = total("baton_worker_prefix_hit_tokens_total", selector=MODEL)
QUERIES = total("baton_worker_prefix_query_tokens_total", selector=MODEL)
EXPOSED = total("baton_worker_kv_exposed_seconds_sum", selector=MODEL)
TRANSFER = total("baton_worker_kv_transfer_seconds_sum", selector=MODEL)
FAILED = total("baton_worker_transfers_failed_total", selector=MODEL)

KV = Dashboard(
    name="kv",
    title="KV and links",
    text="Where the KV cache is, how much of it is found again, and what handing it over costs.",
    rows=[
        Row(
            title="Now",
            panels=[
                number(
                    "Blocks in use",
                    "Of all workers; cached ones count as free.",
                    f"{USED} / {ALL}",
                    "percentunit",
                    rising(0.8, 0.95),
                ),
                number(
                    "Prefix hits",
                    "Share of looked-up prompt tokens that the prefix cache had.",
                    f"{HITS} / {QUERIES}",
                    "percentunit",
                ),
                number(
                    "Hidden transfer time",
                    "Share of hand-overs' time behind which prompts were still computed.",
                    f"1 - {EXPOSED} / {TRANSFER}",
                    "percentunit",
                ),
                number(
                    "KV moved", "Between workers.", total("baton_worker_kv_sent_bytes_total", selector=MODEL), "Bps"
                ),
                number(
                    "Under way", "Hand-overs now, each counted at both ends.", f"sum(baton_worker_transfers{{{MODEL}}})"
                ),
                number("Failed", "Hand-overs, a second.", FAILED, "short", rising(0.01, 0.1)),
            ],
        ),
        Row(
            title="Blocks",
            panels=[
                lines(
                    "Blocks by state",
                    "Of all workers. quarantined ones wait for an aborted write to end.",
                    Query(f"sum by (state) (baton_worker_blocks{{{MODEL}}})", "{{state}}"),
                    is_stacked=True,
                ),
                lines(
                    "In use, by worker",
                    "Share of each worker's blocks. Near 1 sequences are preempted.",
                    Query(
                        f'sum by (worker) (baton_worker_blocks{{{MODEL},state=~"referenced|quarantined"}}) / '
                        f"sum by (worker) (baton_worker_blocks{{{MODEL}}})",
                        "{{worker}}",
                    ),
                    unit="percentunit",
                    high=1,
                    steps=rising(0.8, 0.95),
                ),
                lines(
                    "Preemptions",
                    "Sequences that lost their blocks to older ones, a second: they are read again.",
                    Query(total("baton_worker_preemptions_total", "worker", MODEL), "{{worker}}"),
                ),
            ],
        ),
        Row(
            title="Prefix cache",
            panels=[
                lines(
                    "Looked up and found",
                    "Prompt tokens a second.",
                    Query(QUERIES, "looked up"),
                    Query(HITS, "found"),
                    width=12,
                ),
                lines(
                    "Hit share by worker",
                    "Of the tokens that were looked up there.",
                    Query(
                        f"{total('baton_worker_prefix_hit_tokens_total', 'worker', MODEL)} / "
                        f"{total('baton_worker_prefix_query_tokens_total', 'worker', MODEL)}",
                        "{{worker}}",
                    ),
                    unit="percentunit",
                    high=1,
                    width=12,
                ),
            ],
        ),
        Row(
            title="Links",
            panels=[
                lines(
                    "Sent",
                    "KV bytes a second, by worker and by what carries them.",
                    Query(
                        total("baton_worker_kv_sent_bytes_total", "worker, transport", MODEL),
                        "{{worker}} {{transport}}",
                    ),
                    unit="Bps",
                ),
                lines(
                    "Received",
                    "The same, on the other side.",
                    Query(
                        total("baton_worker_kv_received_bytes_total", "worker, transport", MODEL),
                        "{{worker}} {{transport}}",
                    ),
                    unit="Bps",
                ),
                lines(
                    "Hand-overs",
                    "Whole ones a second, and failed ones.",
                    Query(total("baton_worker_kv_transfer_seconds_count", "transport", MODEL), "{{transport}}"),
                    Query(FAILED, "failed"),
                ),
                lines(
                    "Transfer time",
                    "From the first range to the ack. Long is well as long as computing hides it.",
                    Query(quantile(0.5, "baton_worker_kv_transfer_seconds", "transport", MODEL), "{{transport}} p50"),
                    Query(quantile(0.9, "baton_worker_kv_transfer_seconds", "transport", MODEL), "{{transport}} p90"),
                    unit="s",
                ),
                lines(
                    "Exposed",
                    "What of it came after the prompt was computed: it delays the second token.",
                    Query(quantile(0.5, "baton_worker_kv_exposed_seconds", "transport", MODEL), "{{transport}} p50"),
                    Query(quantile(0.9, "baton_worker_kv_exposed_seconds", "transport", MODEL), "{{transport}} p90"),
                    unit="s",
                ),
                lines(
                    "Waiting to be pushed",
                    "From when a layer's KV is computed until it leaves: for a ticket, for more, or for the link.",
                    Query(quantile(0.5, "baton_worker_kv_wait_seconds", "transport", MODEL), "{{transport}} p50"),
                    Query(quantile(0.9, "baton_worker_kv_wait_seconds", "transport", MODEL), "{{transport}} p90"),
                    unit="s",
                ),
                lines(
                    "Idle between ranges",
                    "What a receiver has nothing to write for within hand-overs. Long: computing is slower.",
                    Query(quantile(0.5, "baton_worker_kv_idle_seconds", "transport", MODEL), "{{transport}} p50"),
                    Query(quantile(0.9, "baton_worker_kv_idle_seconds", "transport", MODEL), "{{transport}} p90"),
                    unit="s",
                ),
                lines(
                    "Ticket",
                    "Until the decode worker had blocks. Long: the decode pool is full.",
                    Query(quantile(0.5, "baton_worker_kv_ticket_seconds", "transport", MODEL), "{{transport}} p50"),
                    Query(quantile(0.9, "baton_worker_kv_ticket_seconds", "transport", MODEL), "{{transport}} p90"),
                    unit="s",
                ),
            ],
        ),
    ],
)
