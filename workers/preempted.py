"""The error with which a worker gives a sequence back."""

from baton.errors import UnavailableError


class PreemptedError(UnavailableError):
    """Asks for a new attempt elsewhere, from the tokens that there are; through no fault of the worker's, so that it
    counts as no loss (`cluster.router.lifecycle`).
    """

    code = "preempted"
