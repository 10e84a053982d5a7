import llguidance
import pytest

from baton.errors import InternalError, InvalidRequestError
from tests.unit.grammar.model import EOS, ids, regex, vocabulary
from workers.engine.draft import Draft
from workers.grammar import compiling
from workers.grammar.compiling import compile_grammar
from workers.grammar.follower import GrammarFollower


def follower(grammar: str) -> GrammarFollower:
    return GrammarFollower(compile_grammar(vocabulary(), grammar), frozenset({EOS}))


def token(text: str) -> int:
    [token_id] = ids(text)
    return token_id


A, B, C = token("a"), token("b"), token("c")


def test_it_says_where_the_answer_is_complete_and_copies_go_their_own_way() -> None:
    one = follower(regex("ab"))
    other = one.copy()
    assert not one.take(A)
    assert one.take(B)
    assert one.is_complete
    assert not other.is_complete
    other.sync([A])
    other.sync([A, B])
    assert other.is_complete


def test_a_token_that_it_forbids_ends_the_answer_for_good() -> None:
    one = follower(regex("ab"))
    with pytest.raises(InternalError, match=r"grammar: .*does not allow token"):
        one.take(B)
    with pytest.raises(InternalError):
        one.check()
    assert not one.forced([A])
    assert not one.cut(Draft([A]), [A]).token_ids
    assert not one.is_complete


def test_paths_and_trees_are_cut_where_it_forbids_them_and_at_ends() -> None:
    one = follower(regex("a[bc]*"))
    assert list(one.cut(Draft([A, B, A, C]), []).token_ids) == [A, B]
    assert list(one.cut(Draft([A, EOS, A]), []).token_ids) == [A]
    tree = Draft([A, B, B, A, EOS, C], parents=[-1, -1, 0, 0, 2, 2])
    kept = one.cut(tree, [])
    assert (list(kept.token_ids), list(kept.parents)) == ([A, B, C], [])
    allowed = Draft([A, B, C], parents=[-1, 0, 0])
    assert one.cut(allowed, []) is allowed
    assert not one.take(A)  # nothing of it was taken for written


def test_what_is_forced_is_known_at_once() -> None:
    one = follower(regex("(yes|no), of course not"))
    assert not one.forced([])
    written = ids("yes")
    forced = one.forced(written)
    assert vocabulary().decode_str([*written, *forced]) == "yes, of course not"


def test_what_is_no_grammar_is_refused_in_few_words() -> None:
    for text in ("start: /[/", "nonsense", "%llguidance {}\nstart: %json false", "start: x"):
        with pytest.raises(InvalidRequestError, match=r"^grammar: ") as caught:
            compile_grammar(vocabulary(), text)
        assert len(caught.value.message) < 500
    with pytest.raises(InvalidRequestError, match="at most"):
        compile_grammar(vocabulary(), "#" * (compiling.MAX_CHARACTERS + 1))


def test_a_library_that_raises_is_an_error_of_that_grammar(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_args: object, **_options: object) -> None:
        raise RuntimeError("out of luck")

    monkeypatch.setattr(llguidance, "LLMatcher", broken)
    with pytest.raises(InternalError, match="out of luck"):
        compile_grammar(vocabulary(), "start: x")
