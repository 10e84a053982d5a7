"""`baton up`: a cluster in the background."""

from typing import TYPE_CHECKING, Annotated

import typer

from cluster.commands.options import ConfigPath, Overrides, load_config

if TYPE_CHECKING:
    from cluster.config.schema import BatonConfig
    from cluster.local.bring_up import Running


def command(
    config: ConfigPath = None,
    overrides: Overrides = None,
    timings: Annotated[bool, typer.Option("--timings", help="Say where the time went.")] = False,
) -> None:
    """Start a cluster and return when it answers; it goes on in the background until `baton down`.

    Called again with a changed file, it applies the change to the running cluster, and no request fails by it: workers
    are started or drained, or replaced a few at a time, and so are the ingress's replicas. Called with the old file, it
    goes back. What needs `baton down` first is refused by name.

    baton up

    baton up cluster.yaml

    baton up cluster.yaml --set pools.decode.workers=2 --set http.port=0
    """
    running = bring_up_shown(load_config(config, overrides))
    print_ready(running, end="baton down", timings=timings)


def bring_up_shown(config: "BatonConfig") -> "Running":
    """`bring_up` with a line that says what is under way: moving on a terminal, one per change elsewhere."""
    from rich.console import Console

    from cluster.commands.fetching import resolve_config_shown
    from cluster.config.entries import with_each
    from cluster.config.schema import AUTO
    from cluster.host import state
    from cluster.local import ray_node as local_ray
    from cluster.local.bring_up import bring_up
    from cluster.models.find import draft_in_full

    found = state.read()
    is_running = found is not None and local_ray.is_running(found)

    def resolved(fleet: "BatonConfig") -> "BatonConfig":
        """What runs goes on with the model that was chosen at its start."""
        return draft_in_full(fleet) if fleet.model == AUTO and is_running else resolve_config_shown(fleet)

    config = with_each(config, resolved)
    console = Console(stderr=True, soft_wrap=True)

    def warn(text: str) -> None:
        console.print(f"[yellow]warning[/yellow]: {text}", highlight=False)

    if console.is_terminal:
        with console.status("looking") as spinner:
            return bring_up(config, spinner.update, warn, is_live=True)
    said: list[str] = []

    def say(text: str) -> None:
        if said[-1:] != [text]:
            said.append(text)
            console.print(text, highlight=False)

    return bring_up(config, say, warn)


def print_ready(running: "Running", *, end: str, timings: bool) -> None:
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True)
    cluster = running.cluster
    seconds = running.timings["in all"]
    console.print(f"[green]{'ready' if running.fresh else 'applied'}[/green] in {seconds:.1f} s: {running.shown}")
    console.print(f"  HTTP  {cluster.http}  (OpenAI-compatible, /v1)")
    console.print(f"  gRPC  {cluster.grpc}  (baton.v1.Inference)")
    console.print("")
    path, body = example(running.served_name, chats=running.chats)
    options = (" --cacert CA.crt" if running.has_tls else "") + (
        ' -H "Authorization: Bearer $BATON_API_KEY"' if running.has_keys else ""
    )
    console.print(f"  curl{options} {cluster.http}{path} -H 'Content-Type: application/json' -d '{body}'", markup=False)
    if running.chats:
        settings = ("BATON_API_KEY=bt-... " if running.has_keys else "") + (
            "BATON_TLS_CA=CA.crt " if running.has_tls else ""
        )
        console.print(f"  {settings}baton chat")
    console.print("")
    console.print(f"  {end} ends it")
    if timings:
        for step, step_s in running.timings.items():
            console.print(f"  {step_s:6.1f} s  {step}")


def example(model: str, *, chats: bool) -> tuple[str, str]:
    """Path and body of a request that this model answers well."""
    if chats:
        messages = '[{"role": "user", "content": "What is the capital of France?"}]'
        return "/v1/chat/completions", f'{{"model": "{model}", "messages": {messages}, "temperature": 0}}'
    return "/v1/completions", f'{{"model": "{model}", "prompt": "Once upon a time", "max_tokens": 40}}'
