from tests.unit.engine.test_prompt_logprobs import *  # noqa: F403
