"""What models are asked when it is measured how well one drafts for the other: answers that repeat, reason and tell."""

from pathlib import Path

from cluster.ingress.tokenizer import Tokenizer

_REPORT = (
    "The bridge over the mill stream was closed for two weeks in March. The council had found that three of the oak "
    "beams were rotten, and that the railing would not hold. A carpenter from the next village replaced the beams, "
    "painted the railing green, and asked for nine hundred pounds. Some said that it was too much; nobody offered to "
    "do it for less."
)
PROMPTS = (
    f"Summarize this report in two sentences:\n\n{_REPORT}",
    "Write a Python function that returns the largest of three numbers, and explain it.",
    "A baker sells 12 loaves an hour and each costs 3 pounds. What does she earn in five hours? Think step by step.",
    "What should I pack for a week of walking in the mountains? Give me a list.",
    f"Correct the spelling and repeat the text:\n\n{_REPORT}",
    "Why do leaves change their colour in the autumn?",
    "It was late in the evening when the carriage stopped before the old house, and the young man who got out",
    "Write a short letter to a landlord about a window that does not close.",
)
MAX_TOKENS = 160  # of a prompt


def sample_prompts(folder: Path) -> list[list[int]]:
    """Token ids, in the model's chat template where it has one. Raises: ConfigError: the folder has no tokenizer."""
    tokenizer = Tokenizer(str(folder))
    if tokenizer.chat_templates:
        texts = [tokenizer.render_chat([{"role": "user", "content": text}]) for text in PROMPTS]
        return [tokenizer.encode(text, add_special_tokens=False)[-MAX_TOKENS:] for text in texts]
    return [tokenizer.encode(text)[-MAX_TOKENS:] for text in PROMPTS]
