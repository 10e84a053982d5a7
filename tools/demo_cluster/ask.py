"""Runs on a host: asks a Baton server, and prints what came as one JSON object.

    python ask.py TARGET NUM_STREAMS MAX_TOKENS PROMPT

Prints `answering` when every stream has begun, then the token ids of each and the seconds that all took.
"""

import asyncio
import json
import sys
import time

import baton


async def main(target: str, num_streams: int, max_tokens: int, prompt: str) -> None:
    begin = time.monotonic()
    settings: baton.Sampling = {"max_tokens": max_tokens, "temperature": 0, "ignore_eos": True}
    async with baton.AsyncClient(target, timeout_s=240, max_retries=0) as sdk:
        streams = [sdk.stream(prompt, **settings) for _ in range(num_streams)]
        texts = [list((await anext(stream)).token_ids) for stream in streams]
        print("answering", flush=True)
        for stream, text in zip(streams, texts, strict=True):
            async for delta in stream:
                text += delta.token_ids
    print(json.dumps({"tokens": texts, "seconds": time.monotonic() - begin}), flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]))
