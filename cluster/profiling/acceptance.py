"""How often a draft model's tokens are right, from where it agrees with answers that are known. Pure."""

from collections.abc import Sequence

from cluster.contracts.draft_chances import DraftChances

MIN_ROUNDS = 12  # in which a place was reached, for its share to be told apart from that of the place before it


def chances_of(answers: Sequence[Sequence[bool]], depth: int) -> DraftChances:
    """Greedy rounds of `depth` tokens each, played over the answers.

    Args:
        answers: For each token of an answer but the first, whether the draft model would have written it too.
        depth: >= 1.
    """
    reached, right = [0] * depth, [0] * depth
    for agrees in answers:
        at = 0
        while at < len(agrees):
            drafted = agrees[at : at + depth]
            num_right = drafted.index(False) if False in drafted else len(drafted)
            for place in range(min(num_right + 1, len(drafted))):
                reached[place] += 1
                right[place] += place < num_right
            at += num_right + 1  # the target's own token follows
    known = [place for place in range(depth) if reached[place] >= (MIN_ROUNDS if place else 1)]
    return DraftChances(tuple(round(right[place] / reached[place], 4) for place in known) or (0.0,))
