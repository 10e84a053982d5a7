from tests.unit.engine.test_trees import *  # noqa: F403
