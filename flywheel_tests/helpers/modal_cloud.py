"""A stand-in for Modal, on loopback: its gRPC protocol, and containers that are processes of this machine.

What a container runs is `train` of `deploy/modal_app.py`, with none of this process's variables. Modal was never met.
"""

import asyncio
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from queue import Queue
from typing import Any
from uuid import uuid4

import grpclib
import grpclib.server
import psutil
import pytest
from google.protobuf.empty_pb2 import Empty
from grpclib.events import RecvRequest, listen
from modal._serialization import deserialize_data_format, serialize
from modal.client import _Client
from modal_proto import api_grpc, api_pb2

from flywheel_tests.helpers.clusters import REPOSITORY
from flywheel_tests.helpers.s3 import free_port

TOKEN = "ak-lab"
_CONTAINER = """
import importlib.util, json, sys
spec = importlib.util.spec_from_file_location("modal_app", sys.argv[1])
app = importlib.util.module_from_spec(spec)
spec.loader.exec_module(app)
ending = app.train.local(*json.load(sys.stdin))
open(sys.argv[2], "w").write(json.dumps(ending))
"""
_STATUS = api_pb2.GenericResult
_RETRIES = 5  # as in deploy/modal_app.py


@dataclass
class Call:
    """A call of the function: what it was given, its log, and how it ended."""

    words: list[str]
    variables: dict[str, str]
    created: float = field(default_factory=time.time)
    log: list[tuple[int, int, str]] = field(default_factory=list)
    containers: int = 0
    process: Any = None
    status: Any = None
    value: Any = None
    done: asyncio.Event = field(default_factory=asyncio.Event)


class Cloud(api_grpc.ModalClientBase):
    """The control plane and its containers. What a test may change is public."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.calls, self.forgets, self.starts = folder, dict[str, Call](), False, True
        self.secret: dict[str, str] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    # ---- what a test does ----

    def lose(self, call: str) -> None:
        """The machine of its container goes away."""
        _kill(self.calls[call].process.pid)

    # ---- what a client asks ----

    async def ClientHello(self, stream: Any) -> None:
        await stream.recv_message()
        await stream.send_message(api_pb2.ClientHelloResponse())

    async def FunctionGet(self, stream: Any) -> None:
        asked = await stream.recv_message()
        if (asked.app_name, asked.object_tag) != ("flywheel", "train"):
            raise grpclib.GRPCError(grpclib.Status.NOT_FOUND, f"App '{asked.app_name}' or its function was not found")
        formats = [api_pb2.DATA_FORMAT_PICKLE, api_pb2.DATA_FORMAT_CBOR]
        ranked = api_pb2.FunctionData.RankedFunction(rank=0, function=api_pb2.Function(function_name="train"))
        handle = api_pb2.FunctionHandleMetadata(
            function_name="train", function_type=api_pb2.Function.FUNCTION_TYPE_FUNCTION, app_id="ap-1",
            supported_input_formats=formats, supported_output_formats=formats,
        )  # fmt: skip
        function = api_pb2.FunctionData(ranked_functions=[ranked])
        await stream.send_message(
            api_pb2.FunctionGetResponse(function_id="fu-train", function=function, handle_metadata=handle)
        )

    async def FunctionMap(self, stream: Any) -> None:
        asked = await stream.recv_message()
        [given] = asked.pipelined_inputs
        arguments, names = deserialize_data_format(given.input.args, given.input.data_format, None)
        assert not names
        name = f"fc-{uuid4().hex[:10]}"
        self.calls[name] = Call(*arguments)
        self._tasks.add(asyncio.create_task(self._run(self.calls[name])))
        put = api_pb2.FunctionPutInputsResponseItem(idx=given.idx, input_id=f"in-{name}")
        await stream.send_message(api_pb2.FunctionMapResponse(function_call_id=name, pipelined_inputs=[put]))

    async def FunctionGetOutputs(self, stream: Any) -> None:
        asked = await stream.recv_message()
        call = self._call(asked.function_call_id)
        if self.forgets:
            return await stream.send_message(api_pb2.FunctionGetOutputsResponse())
        with suppress(TimeoutError):
            await asyncio.wait_for(call.done.wait(), asked.timeout or 0.001)
        if not call.done.is_set():
            return await stream.send_message(api_pb2.FunctionGetOutputsResponse(num_unfinished_inputs=1))
        fields = {"data": serialize(call.value)} if call.status == _STATUS.GENERIC_STATUS_SUCCESS else {"exception": call.value}
        result = api_pb2.GenericResult(status=call.status, **fields)
        output = api_pb2.FunctionGetOutputsItem(
            idx=0, input_id=f"in-{asked.function_call_id}", result=result, data_format=api_pb2.DATA_FORMAT_PICKLE
        )
        return await stream.send_message(api_pb2.FunctionGetOutputsResponse(outputs=[output]))

    async def FunctionCallCancel(self, stream: Any) -> None:
        asked = await stream.recv_message()
        call = self._call(asked.function_call_id)
        if not call.done.is_set():
            call.status, call.value = _STATUS.GENERIC_STATUS_TERMINATED, "Input was cancelled by the user"
            call.done.set()
            if call.process is not None and asked.terminate_containers:
                _kill(call.process.pid)
        await stream.send_message(Empty())

    async def FunctionCallFromId(self, stream: Any) -> None:
        asked = await stream.recv_message()
        self._call(asked.function_call_id)
        metadata = api_pb2.FunctionCallHandleMetadata(app_id="ap-1", function_id="fu-train")
        await stream.send_message(
            api_pb2.FunctionCallFromIdResponse(function_call_id=asked.function_call_id, num_inputs=1, metadata=metadata)
        )

    async def FunctionCallGetInfo(self, stream: Any) -> None:
        asked = await stream.recv_message()
        call = self._call(asked.function_call_id)
        info = api_pb2.FunctionCallInfo(function_call_id=asked.function_call_id, created_at=call.created, total_inputs=1)
        info.succeeded_inputs.total = int(call.done.is_set())
        await stream.send_message(api_pb2.FunctionCallGetInfoResponse(info=info))

    async def AppCountLogs(self, stream: Any) -> None:
        asked = await stream.recv_message()
        width, end = asked.bucket_secs, asked.until.ToNanoseconds() / 1e9
        at = asked.since.ToNanoseconds() // (10**9 * width) * width
        answer = api_pb2.AppCountLogsResponse(app_id="ap-1")
        while at < end:
            bucket = api_pb2.AppCountLogsResponse.LogBucket()
            bucket.bucket_start_at.FromSeconds(at)
            bucket.stdout_logs = len(self._between(asked, at * 10**9, (at + width) * 10**9))
            answer.buckets.append(bucket)
            at += width
        await stream.send_message(answer)

    async def AppFetchLogs(self, stream: Any) -> None:
        asked = await stream.recv_message()
        found = self._between(asked, asked.since.ToNanoseconds(), asked.until.ToNanoseconds())
        items = [api_pb2.TaskLogs(data=text, timestamp_ns=at, timestamp=at / 1e9, file_descriptor=fd) for at, fd, text in found]
        await stream.send_message(api_pb2.AppFetchLogsResponse(batches=[api_pb2.TaskLogsBatch(items=items)]))

    def _call(self, name: str) -> Call:
        if name not in self.calls:
            raise grpclib.GRPCError(grpclib.Status.NOT_FOUND, f"Function call {name} was not found")
        return self.calls[name]

    def _between(self, asked: Any, since: int, until: int) -> list[tuple[int, int, str]]:
        return [each for each in self._call(asked.function_call_id).log if since <= each[0] < until]

    # ---- containers ----

    async def _run(self, call: Call) -> None:
        """Containers, one after the other, until one gives a value; each that is lost makes way for the next."""
        while not self.starts and not call.done.is_set():
            await asyncio.sleep(0.05)
        while not call.done.is_set() and call.containers <= _RETRIES:
            call.containers += 1
            file = self.folder / f"{uuid4().hex}.json"
            call.process = await asyncio.create_subprocess_exec(
                sys.executable, "-W", "ignore", "-c", _CONTAINER, str(REPOSITORY / "deploy" / "modal_app.py"), str(file),
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
                env={"PATH": "/usr/bin:/bin", "HOME": str(self.folder), **self.secret},
            )  # fmt: skip
            call.process.stdin.write(json.dumps([call.words, call.variables]).encode())
            call.process.stdin.close()
            await asyncio.gather(
                _keep(call, call.process.stdout, api_pb2.FILE_DESCRIPTOR_STDOUT),
                _keep(call, call.process.stderr, api_pb2.FILE_DESCRIPTOR_STDERR),
            )
            await call.process.wait()
            if file.exists() and not call.done.is_set():
                call.status, call.value = _STATUS.GENERIC_STATUS_SUCCESS, json.loads(file.read_text())
                call.done.set()
        if not call.done.is_set():
            call.status, call.value = (
                _STATUS.GENERIC_STATUS_FAILURE,
                "Runner terminated, in-progress inputs will be re-scheduled",
            )
            call.done.set()


async def _let_in(event: RecvRequest) -> None:
    """Refuse whoever has another token."""
    if event.metadata.get("x-modal-token-id") != TOKEN:
        raise grpclib.GRPCError(grpclib.Status.UNAUTHENTICATED, "Token ID is malformed")


async def _keep(call: Call, pipe: Any, descriptor: int) -> None:
    """Append what comes to a call's log, in pieces that do not end where lines do."""
    while piece := await pipe.read(100):
        call.log.append((time.time_ns(), descriptor, piece.decode(errors="replace")))


def _kill(pid: int) -> None:
    """Kill a process and all below it, as the end of a container does."""
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        for each in [*process.children(recursive=True), process]:
            with suppress(psutil.NoSuchProcess):
                each.kill()


def _unimplemented(name: str) -> Callable[..., Any]:
    async def refuse(self: Cloud, stream: Any) -> None:
        raise grpclib.GRPCError(grpclib.Status.UNIMPLEMENTED, name)

    return refuse


for _name in list(Cloud.__abstractmethods__):
    setattr(Cloud, _name, _unimplemented(_name))
Cloud.__abstractmethods__ = frozenset()


@contextmanager
def modal_cloud(folder: Path) -> Iterator[Cloud]:
    """A running one, to which Modal's client in this process leads."""
    folder.mkdir()
    cloud, ready, port = Cloud(folder), Queue[tuple[Any, Any]](), free_port()

    async def serve() -> None:
        server, stop = grpclib.server.Server([cloud]), asyncio.Event()
        listen(server, RecvRequest, _let_in)
        await server.start("127.0.0.1", port)
        ready.put((asyncio.get_running_loop(), stop))
        await stop.wait()
        for call in cloud.calls.values():
            call.done.set()
            if call.process is not None:
                _kill(call.process.pid)
        await asyncio.gather(*cloud._tasks, return_exceptions=True)
        server.close()
        await server.wait_closed()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    loop, stop = ready.get(timeout=60)
    variables = {"SERVER_URL": f"http://127.0.0.1:{port}", "TOKEN_ID": TOKEN, "TOKEN_SECRET": "as-lab"}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**variables, "CONFIG_PATH": str(folder / "modal.toml")}.items():
            patch.setenv(f"MODAL_{name}", value)
        forget_client()
        try:
            yield cloud
        finally:
            forget_client()
            loop.call_soon_threadsafe(stop.set)
            thread.join()


def forget_client() -> None:
    """Let Modal's client be made again, by the variables that are set now."""
    _Client._set_env_client(None)
