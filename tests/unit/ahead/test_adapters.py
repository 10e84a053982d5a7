from tests.unit.engine.test_adapters import *  # noqa: F403
