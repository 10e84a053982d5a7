from tests.unit.engine.test_draining import *  # noqa: F403
