from tests.unit.engine.test_stateful_drafts import *  # noqa: F403
