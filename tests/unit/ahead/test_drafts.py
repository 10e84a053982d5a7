from tests.unit.engine.test_drafts import *  # noqa: F403
