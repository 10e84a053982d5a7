"""A request's timeline as text: what it was, then a bar for each thing that was done, by whom and for how long."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

MIN_BAR, MAX_CHUNKS = 20, 12
_NUMBERS = range(2, 10)  # columns of a list
_EIGHTHS = " ▏▎▍▌▋▊▉"
JSON = Mapping[str, Any]


class Row(NamedTuple):
    """`start_s`, `end_s`: since the request arrived; None: a heading."""

    label: str
    start_s: float | None = None
    end_s: float | None = None
    note: str = ""


def chart(timeline: JSON, columns: int) -> str:
    """`columns`: of the terminal."""
    rows = list(_rows(timeline))
    whole_s = max([float(timeline["e2e_s"]), *(row.end_s for row in rows if row.end_s is not None)])
    label = max(map(len, (row.label for row in rows)), default=0)
    note = max(map(len, map(_note, rows)), default=0)
    width = max(columns - label - note - 4, MIN_BAR)
    scale = f"{'':{label}}  0{_ms(whole_s):>{width - 1}}"
    return "\n".join([*_heading(timeline), "", scale, *(_line(row, label, width, whole_s) for row in rows)])


def _heading(timeline: JSON) -> Iterator[str]:
    took = f"{_ms(timeline['e2e_s'])}{' so far' if timeline['status'] == 'running' else ''}"
    yield f"{timeline['request_id']}  {timeline['route']}  {timeline['model']}  {timeline['status']}  {took}"
    if timeline["error"]:
        yield f"  {timeline['error']}"
    known = {"trace": timeline["trace_id"], "key": timeline["key"], "X-Request-Id": timeline["x_request_id"]}
    yield "  " + ", ".join(f"{name} {value}" for name, value in known.items() if value)
    cached = f" ({timeline['num_cached_tokens']} cached)" if timeline["num_cached_tokens"] else ""
    yield (
        f"  prompt {_tokens(timeline['num_prompt_tokens'])}{cached}, answer {_tokens(timeline['num_output_tokens'])}"
        + (
            f", {timeline['num_accepted_tokens']} of {timeline['num_drafted_tokens']} guesses right"
            if timeline["num_drafted_tokens"]
            else ""
        )
    )
    if timeline["ttft_s"] is not None:
        then = f", then {_ms(timeline['tpot_s'])} a token" if timeline["tpot_s"] is not None else ""
        yield f"  first token after {_ms(timeline['ttft_s'])}{then}"


def _rows(timeline: JSON) -> Iterator[Row]:
    for phase in timeline["phases"]:
        yield Row(phase["name"], phase["start_s"], phase["end_s"])
    prompts = timeline["prompts"]
    for number, prompt in enumerate(prompts):
        if len(prompts) > 1:
            yield Row(f"prompt {number}, {_tokens(prompt['num_tokens'])}")
        yield from _of_prompt(prompt, float(timeline["e2e_s"]))


def _of_prompt(prompt: JSON, e2e_s: float) -> Iterator[Row]:
    attempts = prompt["attempts"]
    if prompt["queued_s"] is not None:
        yield Row("queue", prompt["queued_s"], attempts[0]["sent_s"] if attempts else e2e_s)
    for attempt in attempts:
        if len(attempts) > 1 or attempt["end"] not in (None, "ok"):
            why = f": {attempt['end']}" if attempt["end"] not in (None, "ok") else ""
            yield Row(f"attempt {attempt['attempt']}{why}", note=attempt["error"] or "")
        yield from _of_attempt(attempt)
        if attempt is attempts[-1]:
            choices = [one for one in prompt["choices"] if one["first_token_s"] is not None]
            yield from (_writing(choice, attempt, len(prompt["choices"])) for choice in choices)


def _of_attempt(attempt: JSON) -> Iterator[Row]:
    for worker in attempt["workers"]:
        if not worker["reads"]:
            continue
        again = f" again (lost its blocks {worker['num_preemptions']} x)" if worker["num_preemptions"] else ""
        yield Row(f"{worker['worker']} waits{again}", worker["received_s"], worker["scheduled_s"])
        chunks = worker["chunks"]
        for chunk in chunks[:MAX_CHUNKS]:
            behind = f" behind {chunk['num_context_tokens']}" if chunk["num_context_tokens"] else ""
            yield Row(f"{worker['worker']} reads", chunk["start_s"], chunk["end_s"], f"{chunk['num_tokens']}{behind}")
        if rest := chunks[MAX_CHUNKS:]:
            num_tokens = sum(chunk["num_tokens"] for chunk in rest)
            yield Row(
                f"{worker['worker']} reads",
                rest[0]["start_s"],
                rest[-1]["end_s"],
                f"{num_tokens} in {len(rest)} chunks",
            )
    transfer = attempt["transfer"]
    if transfer is not None:
        took_s = transfer["end_s"] - transfer["start_s"]
        hidden = f", {min(transfer['hidden_s'] / took_s, 1.0):.0%} hidden" if took_s > 0 else ""
        note = f"{_size(transfer['num_bytes'])}{hidden}"
        yield Row(f"KV to {attempt['decode']}", transfer["start_s"], transfer["end_s"], note)


def _writing(choice: JSON, attempt: JSON, num_choices: int) -> Row:
    label = f"{attempt['decode']} writes"
    if num_choices > 1:
        label += f" {choice['choice']}"
    drafted = f", {choice['num_accepted']}/{choice['num_drafted']} guessed" if choice["num_drafted"] else ""
    reason = f", {choice['finish_reason']}" if choice["finish_reason"] else ""
    note = f"{_tokens(choice['num_tokens'])} in {choice['num_outputs']}{drafted}{_longest_gap(choice)}{reason}"
    return Row(label, choice["first_token_s"], choice["last_token_s"], note)


def _longest_gap(choice: JSON) -> str:
    """Where outputs came late, if one was much later than the others."""
    times = [row[0] for row in choice["outputs"]]
    gaps = sorted((later - sooner, sooner) for sooner, later in pairwise(times))
    if len(gaps) < 4 or gaps[-1][0] < 4 * gaps[len(gaps) // 2][0]:
        return ""
    return f", {_ms(gaps[-1][0])} of silence at {_ms(gaps[-1][1])}"


def _line(row: Row, label: int, width: int, whole_s: float) -> str:
    if row.start_s is None or row.end_s is None:
        return f"{row.label}  {row.note}".rstrip()
    bar = _bar(row.start_s, row.end_s, width, whole_s)
    return f"{row.label:{label}}  {bar}  {_note(row)}".rstrip()


def _note(row: Row) -> str:
    if row.start_s is None or row.end_s is None:
        return ""
    return f"{_ms(row.end_s - row.start_s):>9}  {row.note}".rstrip()


def _bar(start_s: float, end_s: float, width: int, whole_s: float) -> str:
    """Whole cells, and an eighth of one where it is shorter than that."""
    scale = width / whole_s if whole_s > 0 else 0.0
    first = min(int(start_s * scale), width - 1)
    eighths = max(round((end_s - start_s) * scale * 8), 1)
    cells, rest = divmod(eighths, 8)
    bar = "█" * cells + (_EIGHTHS[rest] if rest else "")
    return f"{' ' * first}{bar}"[:width].ljust(width)


def table(rows: Sequence[JSON]) -> str:
    """A line each, below headings; whole however wide: ids are there to be copied."""
    heads = (
        "request",
        "status",
        "e2e",
        "ttft",
        "tpot",
        "prompt",
        "cached",
        "out",
        "guesses",
        "tries",
        "prefill",
        "decode",
    )
    lines = [heads, *(_cells(row) for row in rows)]
    widths = [max(map(len, cells)) for cells in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            f"{cell:>{width}}" if number in _NUMBERS else f"{cell:{width}}"
            for number, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def _cells(row: JSON) -> tuple[str, ...]:
    guesses = f"{row['num_accepted_tokens']}/{row['num_drafted_tokens']}" if row["num_drafted_tokens"] else "-"
    return (
        str(row["request_id"]),
        str(row["status"]),
        _ms(row["e2e_s"]),
        _ms(row["ttft_s"]),
        _ms(row["tpot_s"]),
        str(row["num_prompt_tokens"]),
        str(row["num_cached_tokens"]),
        str(row["num_output_tokens"]),
        guesses,
        str(row["num_attempts"]),
        str(row["prefill"] or "-"),
        str(row["decode"] or "-"),
    )


def _ms(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    ms = seconds * 1e3
    return f"{ms:.0f} ms" if ms >= 1000 else f"{ms:.1f} ms"


def _tokens(count: int) -> str:
    return f"{count} token" if count == 1 else f"{count} tokens"


def _size(num_bytes: int) -> str:
    amount = float(num_bytes)
    for unit in ("B", "KiB", "MiB"):
        if amount < 1024:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} GiB"
