"""What a compiling process makes of a job: the grammar's text, or why there is none."""

from cluster.ingress.structured.grammar import grammar_text
from cluster.ingress.structured.job import load
from cluster.ingress.structured.output import Regex
from cluster.ingress.structured.refusal import refusal


def compiled(job_text: str) -> dict[str, str]:
    """`text` or `refusal`, never an exception: a job that the process cannot do is the job's fault."""
    try:
        job = load(job_text)
        reason = refusal(job.structured)
        if reason is not None:
            return {"refusal": reason}
        text = grammar_text(
            job.structured,
            reasoning_ends=job.reasoning_ends,
            reasoning_begins=job.reasoning_begins,
            vocabulary=job.vocabulary,
        )
    except RecursionError:
        return {"refusal": "is nested too deeply; nest less"}
    except MemoryError:
        return {"refusal": "takes too much memory to compile; simplify it"}
    except Exception as error:  # of a library, which says too little of what it raises
        return {"refusal": f"cannot be compiled: {type(error).__name__}: {error}; correct or simplify it"}
    return {"text": text}


def warm_up() -> None:
    """Imports what the first job needs."""
    refusal(Regex("a"))
