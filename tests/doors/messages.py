"""Messages and streams of them for each gRPC door, good ones and some with changes, as the bytes of a whole call."""

from collections.abc import Callable
from random import Random

from google.protobuf.message import Message

from baton.v1.draft_pb2 import DraftHello, Follow, News, ToDrafter, Written
from baton.v1.inference_pb2 import (
    Chat,
    ChatMessage,
    DetokenizeRequest,
    GenerateRequest,
    SamplingParams,
    TokenIds,
    TokenizeRequest,
)
from baton.v1.kv_pb2 import (
    AbortTransfer,
    Complete,
    FirstToken,
    FromSender,
    Handshake,
    Offer,
    Range,
    Ranges,
    Renew,
    TransferKey,
)
from baton.v1.worker_pb2 import Abort, ChoiceStart, DecodeRoute, Hello, ReportWish, Submit, ToWorker
from tests.doors.grpc_door import badly_framed, framed
from tests.doors.mutations import scramble, with_changed_bytes
from workers.kv_transfer.handshake import identify, propose
from workers.model.fake import FakeRunner
from workers.spec import WorkerSpec

SAMPLING = SamplingParams(max_tokens=3, temperature=0.5, top_p=0.9, seed=7)
Make = Callable[[Random], bytes]
_CHAT = Chat(messages=[ChatMessage(role="user", content="Once upon")])
GENERATE: list[Message] = [
    GenerateRequest(model="demo", prompt="Once", sampling=SAMPLING),
    GenerateRequest(prompt_token_ids=TokenIds(ids=[1, 2, 3]), sampling=SAMPLING, timeout_s=5),
    GenerateRequest(chat=_CHAT, sampling=SAMPLING),
]
TOKENIZE: list[Message] = [TokenizeRequest(text="Once"), TokenizeRequest(chat=_CHAT)]
DETOKENIZE: list[Message] = [DetokenizeRequest(token_ids=[1, 2, 3])]


def bad(message: Message, rng: Random) -> bytes:
    """Of one message, framed."""
    copy = type(message)()
    copy.CopyFrom(message)
    kind = rng.random()
    if kind < 0.6:
        return framed(scramble(copy, rng).SerializeToString())
    data = with_changed_bytes(copy.SerializeToString(), rng)
    return framed(data) if kind < 0.9 else badly_framed(data, rng)


def one_of(messages: list[Message]) -> Make:
    return lambda rng: bad(rng.choice(messages), rng)


def after(first: Message, rest: Callable[[Random], list[Message]]) -> Make:
    """A stream whose first message is mostly good."""

    def make(rng: Random) -> bytes:
        head = framed(first.SerializeToString()) if rng.random() < 0.9 else bad(first, rng)
        return head + b"".join(
            bad(message, rng) if rng.random() < 0.7 else framed(message.SerializeToString()) for message in rest(rng)
        )

    return make


def submit(rng: Random) -> Submit:
    request_id = f"r{rng.randrange(5)}"
    made = Submit(request_id=request_id, prompt_token_ids=range(rng.randint(1, 20)), sampling=SAMPLING, timeout_s=2)
    made.choices.extend(ChoiceStart(choice=choice) for choice in range(rng.randint(1, 3)))
    made.attempt = rng.randrange(3)
    if rng.random() < 0.2:
        made.decode.CopyFrom(DecodeRoute(worker_id="decode-9", incarnation="x", address="127.0.0.1:1"))
    return made


def session(rng: Random) -> list[Message]:
    abort = Abort(request_id=f"r{rng.randrange(5)}", attempt=rng.randrange(3), choices=[0])
    kinds: list[Message] = [
        ToWorker(submit=submit(rng)),
        ToWorker(submit=submit(rng)),
        ToWorker(abort=abort),
        ToWorker(reports=ReportWish(interval_s=0.2, snapshot=True)),
        ToWorker(hello=Hello(ingress_id="again")),
    ]
    return rng.choices(kinds, k=rng.randint(1, 4))


def transfers(rng: Random) -> list[Message]:
    offered = submit(rng)
    key = TransferKey(request_id=offered.request_id, attempt=offered.attempt, choice=0)
    num_tokens = len(offered.prompt_token_ids)
    ranges = [Range(key=key, index=index, start=0, end=num_tokens, payload=b"\0" * 64) for index in (0, 1)]
    rest: list[Message] = [
        FromSender(ranges=Ranges(ranges=ranges)),
        FromSender(
            complete=Complete(key=key, num_tokens=num_tokens, num_ranges=2, first_tokens=[FirstToken(token_id=1)])
        ),
        FromSender(abort=AbortTransfer(key=key)),
        FromSender(renew=Renew(keys=[key])),
    ]
    return [FromSender(offer=Offer(key=key, ingress_id="i", submit=offered)), *rng.sample(rest, rng.randint(0, 4))]


def drafting(rng: Random) -> list[Message]:
    prompt = range(rng.randint(1, 20))
    follow = Follow(number=rng.randrange(4), prompt_token_ids=prompt, output_token_ids=[1], sampling=SAMPLING)
    written = Written(number=rng.randrange(4), start=len(prompt) + 1, token_ids=[5, 6])
    kinds: list[Message] = [
        ToDrafter(follow=follow),
        ToDrafter(news=News(written=[written], forgotten=[rng.randrange(4)])),
        ToDrafter(),
    ]
    return rng.choices(kinds, k=rng.randint(1, 4))


def handshake(spec: WorkerSpec) -> Handshake:
    """Such that a worker of this spec links: from one that is like it."""
    runner = FakeRunner(spec)
    own = identify(spec, runner.store, incarnation="other", fingerprint=runner.fingerprint)
    return propose(own, transport="grpc", store_address="", store_prefix="")


def worker_doors(spec: WorkerSpec) -> dict[str, Make]:
    """By path."""
    return {
        "/baton.v1.Worker/Session": after(ToWorker(hello=Hello(ingress_id="i")), session),
        "/baton.v1.KVTransfer/Link": after(FromSender(handshake=handshake(spec)), transfers),
    }


def draft_doors(spec: WorkerSpec) -> dict[str, Make]:
    hello = DraftHello(worker_id="w", vocab_size=FakeRunner(spec).vocab_size, num_tokens=4)
    return {
        "/baton.v1.Drafting/Draft": after(ToDrafter(hello=hello), drafting),
        "/baton.v1.Worker/Session": after(ToWorker(hello=Hello(ingress_id="i")), session),  # refused by name
    }


INGRESS_DOORS: dict[str, Make] = {
    "/baton.v1.Inference/Generate": one_of(GENERATE),
    "/baton.v1.Inference/Tokenize": one_of(TOKENIZE),
    "/baton.v1.Inference/Detokenize": one_of(DETOKENIZE),
}
