"""How a worker speculates, from its spec."""

import logging
import time
from collections.abc import Callable

from workers.engine.drafting import Drafter
from workers.model.contract import ModelRunner
from workers.spec import WorkerSpec
from workers.speculative.draft_model import ModelDrafter
from workers.speculative.draft_runner import load_draft_runner
from workers.speculative.goodput import Goodput
from workers.speculative.growing import MOST_SEQS
from workers.speculative.methods import AUTO, DRAFTED, NONE, SELF, check_goes_with_states, tree_width
from workers.speculative.ngram import NgramDrafter
from workers.speculative.pace import Pace
from workers.speculative.paced import CostlyDrafter, PacedDrafter
from workers.speculative.recycling import RecyclingDrafter, Successors
from workers.speculative.remote import RemoteDrafter
from workers.speculative.self_choice import make_self_drafter
from workers.speculative.speculation import DraftedSpeculation

logger = logging.getLogger(__name__)
COSTLY_KIND = NgramDrafter.num_classes  # of drafts that cost time: after those of n-gram
REMOTE_KIND = COSTLY_KIND + 1  # of those of draft workers, and the next


def choose_speculation(
    spec: WorkerSpec, runner: ModelRunner, clock: Callable[[], float] = time.perf_counter
) -> DraftedSpeculation | None:
    """None: nothing is drafted.

    Args:
        clock: Seconds, for what is drafted here; draft workers are on the wall's.

    Raises:
        ConfigError: A method is named that the model cannot go with, or a draft model that cannot draft for it.
    """
    method, max_tokens = spec.speculation.method, spec.speculation.max_tokens
    if method == NONE or not spec.role.decodes:
        return None
    if runner.num_states:
        check_goes_with_states(method, spec.model_name or spec.model)
    goodput = Goodput(max_tokens)
    width = tree_width(spec, runner)
    copies = NgramDrafter(width)
    costly = _costly(spec, runner)
    pace = Pace(goodput, kind=COSTLY_KIND, max_tokens=max_tokens) if costly is not None else None
    remote: RemoteDrafter | None = None
    drafter: Drafter = copies
    if costly is not None and pace is not None:
        drafter = PacedDrafter(costly, pace, goodput.acceptance, free=copies if method == AUTO else None, clock=clock)
    elif method in DRAFTED:
        drafter = remote = RemoteDrafter(
            spec, vocab_size=runner.vocab_size, width=width, fallback=copies, goodput=goodput, kind=REMOTE_KIND
        )
    successors = Successors(runner.vocab_size) if width > 1 else None
    if successors is not None:
        drafter = RecyclingDrafter(drafter, successors, width=width, of_use=goodput.num_considered, most_seqs=MOST_SEQS)
    logger.info(
        "speculation worker_id=%s method=%s max_tokens=%d tree_width=%d", spec.worker_id, method, max_tokens, width
    )
    return DraftedSpeculation(
        drafter,
        max_tokens=max_tokens,
        max_model_len=runner.max_model_len,
        vocab_size=runner.vocab_size,
        paths_only=runner.num_states > 0,
        goodput=goodput,
        watch=successors,
        job_watch=remote,
        pace=pace,
        rest=remote.rest if remote is not None else None,
        clock=clock,
    )


def _costly(spec: WorkerSpec, runner: ModelRunner) -> CostlyDrafter | None:
    """Who drafts here at a cost, if anybody does."""
    if spec.speculation.method == SELF:
        return make_self_drafter(spec, runner, COSTLY_KIND)
    if spec.draft_model and spec.speculation.method in DRAFTED:
        return ModelDrafter(load_draft_runner(spec, runner), kind=COSTLY_KIND)
    return None
