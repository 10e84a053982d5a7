"""Whether guessing ahead pays."""

from tools.dashboards.panel import MODEL, Dashboard, Query, Row, falling, lines, mean, number, total

DECODERS = f'{MODEL},role!="draft"'
DRAFTERS = f'{MODEL},role="draft"'
DRAFTED = total("baton_worker_draft_tokens_total", selector=DECODERS)
ACCEPTED = total("baton_worker_accepted_tokens_total", selector=DECODERS)
DRAFTS = total("baton_worker_drafts_total", selector=DECODERS)


def share(part: str, rest: str, by: str, selector: str) -> str:
    one, other = total(part, by, selector), total(rest, by, selector)
    return f"{one} / ({one} + {other})"


SPECULATION = Dashboard(
    name="speculation",
    title="Speculation",
    text="Draft tokens: how many are guessed, how many are right, and what guessing costs.",
    rows=[
        Row(
            title="Now",
            panels=[
                number(
                    "Accepted",
                    "Share of verified draft tokens that were right. Of trees, all branches count.",
                    f"{ACCEPTED} / {DRAFTED}",
                    "percentunit",
                    falling(0.2, 0.4),
                ),
                number(
                    "Tokens a draft",
                    "Written by a step that verified a draft of a sequence: the right ones, and one more.",
                    f"1 + {ACCEPTED} / {DRAFTS}",
                ),
                number("Drafted", "Tokens verified a second.", DRAFTED),
                number(
                    "Drafting",
                    "Share of steps' time that they waited for drafts.",
                    f"{total('baton_worker_drafting_seconds_total', selector=DECODERS)} / "
                    f"{total('baton_worker_step_seconds_sum', selector=DECODERS)}",
                    "percentunit",
                ),
                number(
                    "Guesses in time",
                    "Share of questions to draft workers whose answer was there.",
                    share("baton_worker_guess_hits_total", "baton_worker_guess_misses_total", "", DECODERS),
                    "percentunit",
                ),
                number(
                    "Draft workers rest",
                    "Workers that tell draft workers nothing now: without is faster.",
                    f"sum(baton_worker_draft_workers_rest{{{DECODERS}}})",
                ),
            ],
        ),
        Row(
            title="What is right",
            panels=[
                lines(
                    "Drafted and accepted", "Tokens a second.", Query(DRAFTED, "drafted"), Query(ACCEPTED, "accepted")
                ),
                lines(
                    "Accepted by place",
                    "Share of the draft tokens at each place that were right: how long drafts should be.",
                    Query(
                        f"{total('baton_worker_accepted_tokens_total', 'place', DECODERS)} / "
                        f"{total('baton_worker_draft_tokens_total', 'place', DECODERS)}",
                        "place {{place}}",
                    ),
                    unit="percentunit",
                    high=1,
                ),
                lines(
                    "Draft tokens a decode",
                    "Verified for each sequence in a step, moving average: the length that the pace has chosen.",
                    Query(f"baton_worker_drafts_per_decode{{{DECODERS}}}", "{{worker}}"),
                ),
            ],
        ),
        Row(
            title="What it costs",
            panels=[
                lines(
                    "Waiting and verifying",
                    "Seconds a second: waiting for drafts, and steps that verified some.",
                    Query(total("baton_worker_drafting_seconds_total", selector=DECODERS), "drafting"),
                    Query(total("baton_worker_verifying_seconds_total", selector=DECODERS), "verifying"),
                    Query(
                        total("baton_worker_draft_wait_seconds_total", selector=DECODERS),
                        "of drafting: for draft workers",
                    ),
                    unit="percentunit",
                ),
                lines(
                    "Cut",
                    "Draft tokens a second that a step had neither budget nor blocks for.",
                    Query(total("baton_worker_draft_tokens_cut_total", "worker", DECODERS), "{{worker}}"),
                ),
                lines(
                    "Draft workers' steps",
                    "Their mean length, by worker.",
                    Query(mean("baton_worker_step_seconds", "worker", DRAFTERS), "{{worker}}"),
                    unit="s",
                ),
                lines(
                    "Foreseen",
                    "Of draft workers: share of what was written that they had foreseen.",
                    Query(
                        share("baton_worker_guess_hits_total", "baton_worker_guess_misses_total", "worker", DRAFTERS),
                        "{{worker}}",
                    ),
                    unit="percentunit",
                    high=1,
                ),
                lines(
                    "Peers",
                    "Streams between draft workers and those that decode.",
                    Query(f"baton_worker_draft_peers{{{MODEL}}}", "{{worker}}"),
                ),
                lines(
                    "Guessed",
                    "Tokens a second that draft workers computed.",
                    Query(total("baton_worker_output_tokens_total", "worker", DRAFTERS), "{{worker}}"),
                ),
            ],
        ),
    ],
)
