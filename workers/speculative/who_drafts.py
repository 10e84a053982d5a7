"""Who guesses ahead for the sequences that a worker decodes, in words."""

from workers.spec import Role, WorkerSpec

NGRAM = "ngram"
DRAFT_WORKERS = "draft workers"


def who_drafts(spec: WorkerSpec) -> tuple[str, ...]:
    """Those that may while it decodes, by its spec; which of them does is chosen from step to step. Empty: nobody."""
    method = spec.speculation.method
    if spec.role is Role.DRAFT or method == "none":
        return ()
    if method in (NGRAM, "self"):
        return (method,)
    models = [spec.draft_model_name or spec.draft_model] if spec.draft_model else []
    workers = [DRAFT_WORKERS] if spec.has_draft_workers else []
    has_ngram = method == "auto" or (workers and not models)  # where draft workers have said nothing
    return (*([NGRAM] if has_ngram else ()), *models, *workers)
