"""What `bench.speculation` asks: texts whose answers repeat much of them, or little."""

from collections.abc import Mapping, Sequence

_NOTE = (
    "The meeting of the harbour committee began at nine. Mrs Alder, who keeps the lighthouse accounts, said that the "
    "oil for the lamp had cost eleven pounds more than last year. Mr Finch asked whether the new lamp could burn for "
    "three hours longer on the same oil. Nobody knew. The committee agreed to write to the maker of the lamp, to paint "
    "the north pier before the winter, and to meet again on the first Monday of next month."
)
_CODE = (
    "def total(orders):\n    result = 0\n    for order in orders:\n        if order.paid:\n"
    "            result = result + order.price * order.count\n    return result\n"
)
PROMPTS: Mapping[str, Sequence[str]] = {
    "repeat": [f"Repeat this text word for word:\n\n{_NOTE}"],
    "edit code": [f"Rename `result` to `amount` in this program and print it whole:\n\n{_CODE}"],
    "summarize": [f"Summarize this in one paragraph:\n\n{_NOTE}"],
    "question": ["Why is the sky blue, and why is it red in the evening?"],
    "story": ["Write a story about a fox who wants to learn to swim."],
}
TEXTS: Mapping[str, Sequence[str]] = {  # begun, to go on with: for models that hold no conversations
    "novel": [
        "It was late in the evening when the carriage stopped before the old house, and the young man who got out",
        '"I do not understand you," said the captain, and he looked across the table at his sister, who',
        "The road went through the wood for many miles, and whoever walked there by night",
        "My father had been a merchant in the town, and when he died my mother",
    ],
}
