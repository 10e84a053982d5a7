"""Linear attention on a GPU against the recurrences, token by token in float64: torch by chunks in float32, and
flash-linear-attention's kernels in bfloat16, whole prompts and in pieces; and what each takes.
"""

import importlib.util
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from bench.gpu_check.check import Check, SkippedError
from tests.unit.model.linear.recurrence import GATES, KINDS, Inputs, error, inputs, recurrence
from workers.model.linear import fold, make_piece, scan, step
from workers.model.linear.kernels import kernel_for

NUM_TOKENS, HEADS, HEAD_DIM = 200, 4, 64
ALLOWED = {torch.float32: 1e-5, torch.bfloat16: 2e-2}
TIMED = {"cuda": (16384, 16, 128), "cpu": (256, 2, 16)}  # tokens, heads, head_dim
NUM_ROUNDS = 3
CUTS = (70, 71)  # where the pieces end, before the last token


def run(check: Check) -> None:
    torch.backends.cuda.matmul.allow_tf32 = False
    for kind in KINDS:
        for gates in GATES:
            with check.item(f"{kind}, gates {gates}"):
                given = inputs(kind, gates, NUM_TOKENS, heads=HEADS, d_k=HEAD_DIM, d_v=HEAD_DIM)
                _against_recurrence(check, f"{kind}, gates {gates}", given)
        with check.item(f"{kind}, time"):
            _timed(check, kind)


def _against_recurrence(check: Check, name: str, given: Inputs) -> None:
    _judge(check, f"{name}, float32", _whole, given, torch.float32)
    _judge(check, f"{name}, pieces, float32", _in_pieces, given, torch.float32)
    _judge(check, f"{name}, last token by step", _last_by_step, given, torch.float32)
    _needs_kernels(check)
    _judge(check, f"{name}, kernel", _whole, given, torch.bfloat16)
    _judge(check, f"{name}, pieces by kernel", _in_pieces, given, torch.bfloat16)


def _needs_kernels(check: Check) -> None:
    if check.is_dry:
        raise SkippedError("flash-linear-attention needs a GPU")
    if importlib.util.find_spec("fla") is None:
        raise SkippedError("flash-linear-attention is not installed")


def _judge(
    check: Check, name: str, run: Callable[[Inputs], tuple[Tensor, Tensor]], given: Inputs, dtype: torch.dtype
) -> None:
    rounded = given.to(dtype)
    expected, expected_state = recurrence(rounded)
    out, state = run(rounded.on(check.device))
    found, allowed = max(error(out.cpu(), expected), error(state.cpu(), expected_state)), ALLOWED[dtype]
    check.judge(name, found <= allowed, f"off by {found:.1e}, {allowed:.0e} is allowed", error=found, allowed=allowed)


def _whole(given: Inputs) -> tuple[Tensor, Tensor]:
    if given.q.is_cuda and given.q.dtype == torch.bfloat16:
        assert kernel_for(given.q, given.log_decay, given.beta) is not None
    return scan(*given.args())


def _rows(given: Inputs, part: slice) -> tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor | None]:
    decay, beta = (None if x is None else x[part] for x in (given.log_decay, given.beta))
    return given.q[part], given.k[part], given.v[part], decay, beta


def _in_pieces(given: Inputs) -> tuple[Tensor, Tensor]:
    parts: Sequence[slice] = [slice(CUTS[0]), slice(*CUTS), slice(CUTS[1], None)]
    pieces = [make_piece(*_rows(given, part), given.state) for part in parts]
    effects = [piece.effect() for piece in pieces]
    for number, piece in enumerate(pieces):
        piece.advance(fold(effects[:number], given.state))
    return torch.cat([piece.outputs() for piece in pieces]), fold(effects, given.state)


def _last_by_step(given: Inputs) -> tuple[Tensor, Tensor]:
    before, state = scan(*_rows(given, slice(-1)), given.state)
    out, states = step(*_rows(given, slice(-1, None)), state[None])
    return torch.cat([before, out]), states[0]


def _timed(check: Check, kind: str) -> None:
    num_tokens, heads, dim = TIMED[check.device]
    given = inputs(kind, "usual", num_tokens, heads=heads, d_k=dim, d_v=dim).on(check.device)
    torch_ms = _ms(given, check)
    text = f"{num_tokens} tokens, {heads} heads of {dim}: {torch_ms:.1f} ms by torch in float32"
    if not check.is_dry and importlib.util.find_spec("fla") is not None:
        kernel_ms = _ms(given.to(torch.bfloat16), check)
        check.figure(f"{kind}, time", f"{text}, {kernel_ms:.1f} ms by the kernel", torch=torch_ms, kernel=kernel_ms)
        return
    check.figure(f"{kind}, time", text, torch=torch_ms)


def _ms(given: Inputs, check: Check) -> float:
    """The fastest round; the first compiles."""
    rounds = []
    for _ in range(NUM_ROUNDS):
        began_s = time.perf_counter()
        scan(*given.args())
        if not check.is_dry:
            torch.cuda.synchronize()
        rounds.append((time.perf_counter() - began_s) * 1e3)
    return min(rounds)
