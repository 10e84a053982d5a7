from tests.unit.grammar.test_engine import *  # noqa: F403
