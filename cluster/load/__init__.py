"""The load generator behind `baton bench`; `cluster.load.session.measure` is the entry point.

One asyncio process: requests are encoded before they are due, every token event is one timestamp, and everything else
(lengths, percentiles, the picture) is worked out after the run.
"""
