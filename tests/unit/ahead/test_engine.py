from tests.unit.engine.test_engine import *  # noqa: F403
