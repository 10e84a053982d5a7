"""Is the cluster well, and what does it do."""

from tools.dashboards.panel import (
    JOB,
    MODEL,
    Dashboard,
    Query,
    Row,
    falling,
    lines,
    mean,
    number,
    quantile,
    rising,
    total,
)

FAILED = f'{MODEL},status!~"ok|cancelled|invalid_request|model_not_found|unauthenticated|permission_denied"'

FLEET = Dashboard(
    name="fleet",
    title="Fleet",
    text="All pools of one cluster: who is up, what they do, and where work waits.",
    rows=[
        Row(
            title="Now",
            panels=[
                number(
                    "Workers up",
                    "Share of the workers in the controller's table that this ingress has a stream to.",
                    f"avg(baton_worker_up{{{JOB}}})",
                    "percentunit",
                    falling(0.5, 1),
                ),
                number("Requests", "Ended, a second.", total("baton_requests_total", selector=MODEL), "reqps"),
                number(
                    "Failed",
                    "Share of requests that ended with an error that was not the client's.",
                    f"({total('baton_requests_total', selector=FAILED)} or vector(0)) / "
                    f"{total('baton_requests_total', selector=MODEL)}",
                    "percentunit",
                    rising(0.001, 0.01),
                ),
                number(
                    "Tokens out",
                    "Sent to clients, a second.",
                    total("baton_worker_output_tokens_total", selector=f'{MODEL},role!="draft"'),
                    "short",
                ),
                number("Open", "Requests that are being answered or wait.", f"sum(baton_requests_open{{{JOB}}})"),
                number(
                    "Without a first token",
                    "Open requests whose client has nothing yet.",
                    f"sum(baton_requests_waiting{{{JOB}}})",
                ),
            ],
        ),
        Row(
            title="Load",
            panels=[
                lines(
                    "Requests by status",
                    "Ended, a second; overloaded: shed by admission.",
                    Query(total("baton_requests_total", "status", MODEL), "{{status}}"),
                    unit="reqps",
                    is_stacked=True,
                ),
                lines(
                    "Choices by finish reason",
                    "Why answers ended: at their end, at a limit, left by the client, failed.",
                    Query(total("baton_choices_finished_total", "reason", MODEL), "{{reason}}"),
                    unit="reqps",
                    is_stacked=True,
                ),
                lines(
                    "Tokens by pool",
                    "Prompt tokens that came to be read and tokens written, a second; of draft workers: guessed.",
                    Query(total("baton_worker_prompt_tokens_total", "role", MODEL), "read: {{role}}"),
                    Query(total("baton_worker_output_tokens_total", "role", MODEL), "written: {{role}}"),
                ),
                lines(
                    "Running and waiting",
                    "Sequences in the batches, and those that wait for a place or blocks.",
                    Query(f"sum by (role) (baton_worker_requests_running{{{MODEL}}})", "running: {{role}}"),
                    Query(f"sum by (role) (baton_worker_requests_waiting{{{MODEL}}})", "waiting: {{role}}"),
                ),
                lines(
                    "At the router",
                    "Requests with workers, and those that wait because router.max_running are.",
                    Query(f"sum(baton_requests_admitted{{{MODEL}}})", "admitted"),
                    Query(f"sum(baton_requests_queued{{{MODEL}}})", "queued"),
                ),
                lines(
                    "Prompt tokens to compute",
                    "Waiting at each worker: what a new prompt queues behind.",
                    Query(f"baton_worker_waiting_tokens{{{MODEL}}}", "{{worker}}"),
                ),
            ],
        ),
        Row(
            title="Steps",
            panels=[
                lines(
                    "Step time",
                    "Ninth decile of an engine step, by pool and by what it did. A decode step is what "
                    "every answer on the worker waits for.",
                    Query(quantile(0.9, "baton_worker_step_seconds", "role, kind", MODEL), "{{role}}: {{kind}}"),
                    unit="s",
                ),
                lines(
                    "Batch",
                    "Mean number of sequences in a step.",
                    Query(mean("baton_worker_batch_sequences", "role", MODEL), "{{role}}"),
                ),
                lines(
                    "Tokens a step",
                    "Mean number of tokens computed in a step; the budget is engine.max_batched_tokens.",
                    Query(mean("baton_worker_batch_tokens", "role", MODEL), "{{role}}"),
                ),
                lines(
                    "Ingress step",
                    "What a replica takes to hand on one worker's step. It has one thread: a long "
                    "one delays all streams.",
                    Query(quantile(0.99, "baton_ingress_step_seconds", selector=MODEL), "p99"),
                    Query(mean("baton_ingress_step_seconds", selector=MODEL), "mean"),
                    unit="s",
                ),
                lines(
                    "Steps",
                    "Engine steps a second.",
                    Query(total("baton_worker_steps_total", "worker", MODEL), "{{worker}}"),
                ),
                lines(
                    "Processes",
                    "CPU that ingress replicas take, in cores.",
                    Query(total("process_cpu_seconds_total"), "ingress"),
                ),
            ],
        ),
        Row(
            title="Trouble",
            panels=[
                lines(
                    "Workers that are not up",
                    "They are down, or this ingress has lost them.",
                    Query(f"count(baton_worker_up{{{JOB}}} == 0) or vector(0)", "down"),
                    Query(f"sum(baton_worker_draining{{{JOB}}})", "draining"),
                ),
                lines(
                    "Since progress",
                    "For how long workers have had work and finished no step.",
                    Query(f"max by (worker) (baton_worker_since_progress_seconds{{{JOB}}})", "{{worker}}"),
                    unit="s",
                    steps=rising(10, 30),
                ),
                lines(
                    "Retries, losses, shed",
                    "Attempts that went on elsewhere, streams to workers that were lost, "
                    "and requests turned away, a second.",
                    Query(total("baton_request_retries_total", selector=MODEL), "retries"),
                    Query(total("baton_workers_lost_total", selector=MODEL), "workers lost"),
                    Query(total("baton_requests_shed_total", selector=MODEL), "shed"),
                ),
            ],
        ),
    ],
)
