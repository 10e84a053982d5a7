"""How a worker speculates, from its spec."""

import logging

from workers.engine.drafting import Drafter
from workers.model.contract import ModelRunner, Watch
from workers.spec import WorkerSpec
from workers.speculative.goodput import Goodput
from workers.speculative.methods import NONE, check_goes_with_states
from workers.speculative.ngram import NgramDrafter
from workers.speculative.recycling import RecyclingDrafter, Successors
from workers.speculative.speculation import DraftedSpeculation

logger = logging.getLogger(__name__)


def choose_speculation(spec: WorkerSpec, runner: ModelRunner) -> DraftedSpeculation | None:
    """None: nothing is drafted.

    Raises:
        ConfigError: A method is named that the model cannot go with.
    """
    method, max_tokens = spec.speculation.method, spec.speculation.max_tokens
    if method == NONE or not spec.role.decodes:
        return None
    if runner.num_states:
        check_goes_with_states(method, spec.model_name or spec.model)
        return None
    width = spec.speculation.tree_width
    logger.info("speculation worker_id=%s method=ngram max_tokens=%d tree_width=%d", spec.worker_id, max_tokens, width)
    drafter, watch = _drafter(width, runner.vocab_size)
    return DraftedSpeculation(
        drafter,
        max_tokens=max_tokens,
        max_model_len=runner.max_model_len,
        vocab_size=runner.vocab_size,
        goodput=Goodput(max_tokens),
        watch=watch,
    )


def _drafter(width: int, vocab_size: int) -> tuple[Drafter, Watch | None]:
    """And what steps tell, if it learns from that."""
    copies = NgramDrafter(width)
    if width == 1:
        return copies, None
    successors = Successors(vocab_size)
    return RecyclingDrafter(copies, successors, width=width, first_kind=copies.num_classes), successors
