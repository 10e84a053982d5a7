"""How open models write tool calls and reasoning: one small pure class a format, text in and events out."""
