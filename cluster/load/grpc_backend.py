"""`baton.v1.Inference` over gRPC, below the SDK: no retries, and no objects per token but gRPC's own."""

import time
from typing import Any

import grpc
import grpc.aio

from baton import _convert
from baton._boundary import from_rpc_error
from baton._connection import Connection
from baton.v1 import inference_pb2 as pb
from baton.v1.inference_pb2_grpc import InferenceStub
from cluster.doors.client_door import ClientDoor
from cluster.load.backend import Clock, Sampling, ServedModel
from cluster.load.record import Record
from cluster.load.requests import LoadRequest, token_ids

_CONNECT_TIMEOUT_S = 30.0


class GrpcBackend:
    """Made and used on one running event loop."""

    def __init__(self, target: str, *, door: ClientDoor | None = None, clock: Clock = time.perf_counter) -> None:
        """`target` is host:port."""
        self._target = target
        self._clock = clock
        self._connection = Connection(target, **(door or ClientDoor()).for_grpc())
        self._channel = self._connection.aio_channel()
        self._stub: Any = InferenceStub(self._channel)

    async def models(self) -> list[ServedModel]:
        try:
            reply = await self._stub.ListModels(
                pb.ListModelsRequest(), timeout=_CONNECT_TIMEOUT_S, metadata=self._connection.metadata
            )
        except grpc.RpcError as error:
            raise from_rpc_error(error, self._target) from error
        return [
            ServedModel(id=model.id, max_model_len=model.max_model_len or None, vocab_size=model.vocab_size or None)
            for model in reply.models
        ]

    def encode(self, request: LoadRequest, sampling: Sampling) -> pb.GenerateRequest:
        params = _convert.sampling_params(
            max_tokens=request.output_len, temperature=sampling.temperature, ignore_eos=sampling.ignore_eos
        )
        prompt = request.text or token_ids(request, seed=sampling.seed, vocab_size=sampling.vocab_size)
        return _convert.generate_request(prompt, model=sampling.model, sampling=params, timeout_s=sampling.timeout_s)

    async def send(self, payload: pb.GenerateRequest, record: Record) -> None:
        call = self._stub.Generate(payload, timeout=payload.timeout_s, metadata=self._connection.metadata)
        num_tokens = 0
        try:
            while (response := await call.read()) is not grpc.aio.EOF:
                now_s = self._clock()
                num_new = sum(len(delta.token_ids) for delta in response.deltas)
                if num_new:
                    record.token_s.append(now_s)
                    num_tokens += num_new
                if response.HasField("usage"):
                    record.prompt_tokens = response.usage.prompt_tokens
                    record.output_tokens = response.usage.completion_tokens
        except grpc.RpcError as error:
            failure = from_rpc_error(error, self._target)
            record.error = f"{failure.code}: {failure.message}"
            return
        finally:
            call.cancel()  # no effect on a call that has ended
        if not record.token_s or record.output_tokens != num_tokens:
            record.error = f"the stream ended early: {num_tokens} tokens came, usage says {record.output_tokens}"

    async def close(self) -> None:
        await self._channel.close()
