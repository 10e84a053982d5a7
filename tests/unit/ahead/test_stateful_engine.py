from tests.unit.engine.test_stateful_engine import *  # noqa: F403
