"""A stand-in for a Kubernetes cluster, on loopback: kmock keeps the objects, a job controller and one node are here.

The node runs the container's command on this machine, with none of this process's variables. What a client may do is what
`deploy/kubernetes/launcher.yaml` allows. No API server of Kubernetes itself was ever met.
"""

import asyncio
import os
import re
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from queue import Queue
from typing import Any
from uuid import uuid4

import kmock
import kubernetes_validate
import yaml
from aiohttp import web

from flywheel_tests.helpers.clusters import REPOSITORY

TOKEN, IMAGE, NAMESPACE = "let-me-in", "registry/flywheel:1", "ml"
JOBS, PODS, EVENTS = (kmock.resource(name) for name in ("batch/v1/jobs", "v1/pods", "v1/events"))
_VERBS = {kmock.action.CREATE: "create", kmock.action.FETCH: "get", kmock.action.LIST: "list", kmock.action.DELETE: "delete"}
_GRACE_SECONDS = 15


def role() -> list[dict[str, Any]]:
    """The rules of the role in the repository."""
    documents = yaml.safe_load_all((REPOSITORY / "deploy" / "kubernetes" / "launcher.yaml").read_text())
    return next(each["rules"] for each in documents if each["kind"] == "Role")


def answer(code: int, message: str) -> web.Response:
    """What the API server says when it does not do what it is asked."""
    body = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "message": message}
    return web.json_response(body, status=code)


class Api(kmock.KubernetesEmulator):
    """The API server: who may do what, which manifests are right, and how things are deleted."""

    cluster: "Cluster"

    async def _handle(self, request: Any) -> web.StreamResponse:
        if request.headers.get("Authorization") != f"Bearer {TOKEN}":
            return answer(401, "Unauthorized")
        plural = f"{request.resource.plural}/{request.subresource}".removesuffix("/None")
        group, verb = request.resource.group, _VERBS[request.action]
        if not any(group in r["apiGroups"] and plural in r["resources"] and verb in r["verbs"] for r in self.cluster.rules):
            return answer(403, f'{plural} is forbidden: User "lab" cannot {verb} resource "{plural}" in API group "{group}"')
        if plural == "pods/log":
            return self.cluster.log(request)
        if verb == "create":
            if request.namespace != NAMESPACE:
                return answer(404, f'namespaces "{request.namespace}" not found')
            if fault := self.cluster.fault(request.data):
                return answer(422, fault)
            request.data["metadata"] |= self.cluster.metadata(request.data["metadata"]["name"])
            request.data["status"] = {}
        if verb == "delete" and (refused := self._delete(request)):
            return refused
        done = await super()._handle(request)
        if verb == "create":
            self.cluster.begin(request.data["metadata"]["name"])
        return done

    def _delete(self, request: Any) -> web.Response | None:
        """Mark as the API server does: in the foreground an object stays until what belongs to it is gone."""
        key = (request.resource, request.namespace, request.name)
        if key not in self.objects or self.objects[key].deleted:
            return None
        thing = self.objects[key]
        body = request.data or {}
        if body.get("preconditions", {}).get("uid", thing["metadata"]["uid"]) != thing["metadata"]["uid"]:
            return answer(409, "the UID in the precondition does not match")
        policy = body.get("propagationPolicy", "Orphan")  # the default of jobs
        if policy == "Orphan":
            self.cluster.orphaned.add(request.name)
        elif policy == "Foreground":
            thing.patch({"metadata": {"finalizers": ["foregroundDeletion"]}})
        return None

    async def _serve_list(self, request: Any) -> Any:
        items = (await super()._serve_list(request))["items"]
        if "labelSelector" in request.params:
            name, _, value = request.params["labelSelector"].partition("=")
            items = [each for each in items if each["metadata"]["labels"].get(name) == value]
        if "fieldSelector" in request.params:
            uid = re.search(r"involvedObject\.uid=([^,]+)", request.params["fieldSelector"])
            items = [each for each in items if uid and each["involvedObject"]["uid"] == uid[1]]
        return {"metadata": {}, "items": items}


@dataclass
class Cluster:
    """Its job controller and its node. What a test may change is public."""

    folder: Path
    gpus: int = 2
    quota: bool = False
    rules: list[dict[str, Any]] = field(default_factory=role)
    secrets: dict[str, dict[str, str]] = field(default_factory=dict)
    manifests: list[dict[str, Any]] = field(default_factory=list)
    pods: list[str] = field(default_factory=list)
    orphaned: set[str] = field(default_factory=set)
    faults: list[Exception] = field(default_factory=list)
    _marks: dict[str, str] = field(default_factory=dict)
    _processes: dict[str, Any] = field(default_factory=dict)
    _tasks: set[Any] = field(default_factory=set)
    _api: Any = None
    _loop: Any = None

    async def serve(self, ready: "Queue[str]") -> None:
        """Answer until the loop is told to stop."""
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        async with Api() as api, kmock.Server(api) as server:
            api.cluster, self._api = self, api
            for resource in (JOBS, PODS, EVENTS):
                api.resources[resource] = {
                    "kind": resource.plural[:-1].title(), "singular": "", "verbs": [*_VERBS.values()], "namespaced": True,
                    "subresources": [],
                }  # fmt: skip
            ready.put(str(server.url).rstrip("/"))
            await self._stop.wait()
            for name in self._processes:
                self.kill(name)
            for task in self._tasks:
                task.cancel()
            ends = await asyncio.gather(*self._tasks, return_exceptions=True)
            self.faults = [each for each in ends if isinstance(each, Exception)]

    # ---- what a test does and sees ----

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)

    def jobs(self) -> list[str]:
        return [name for (kind, _, name), each in list(self._api.objects.items()) if kind == JOBS and not each.deleted]

    def delete(self, job: str) -> None:
        """As an administrator does."""

        async def mark() -> None:
            self._object(JOBS, job).patch({"metadata": {"deletionTimestamp": _now()}})

        asyncio.run_coroutine_threadsafe(mark(), self._loop).result(10)

    def disrupt(self, pod: str) -> None:
        """Its node goes away."""
        self._marks[pod] = "disrupted"
        self.kill(pod)

    def run_out_of_memory(self, pod: str) -> None:
        """The system kills it."""
        self._marks[pod] = "OOMKilled"
        self.kill(pod)

    def kill(self, pod: str) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._processes[pod].pid, signal.SIGKILL)

    # ---- for the API ----

    def fault(self, body: dict[str, Any]) -> str | None:
        """What is wrong with a manifest."""
        self.manifests.append(body)
        try:
            kubernetes_validate.validate(body, "1.34", strict=True)
        except kubernetes_validate.ValidationError as error:
            return str(error.message)
        amounts = body["spec"]["template"]["spec"]["containers"][0]["resources"]["requests"]
        wrong = [name for name, each in amounts.items() if not re.fullmatch(r"\d+(\.\d+)?([mkMGT]i?)?", each)]
        return f"quantities must match the regular expression: {wrong}" if wrong else None

    def metadata(self, name: str, **more: Any) -> dict[str, Any]:
        return {"name": name, "namespace": NAMESPACE, "uid": str(uuid4()), "creationTimestamp": _now(), **more}

    def begin(self, job: str) -> None:
        self._tasks.add(self._loop.create_task(self._control(self._object(JOBS, job))))

    def log(self, request: Any) -> web.Response:
        """The lines of a pod, since some seconds ago, with their time stamps."""
        file = self.folder / f"{request.name}.log"
        if request.name not in self._processes:
            return answer(400, f'container "training" in pod "{request.name}" is waiting to start: ContainerCreating')
        since = _stamp(float(request.params.get("sinceSeconds", 1e6)))
        kept = [line for line in file.read_bytes().splitlines(keepends=True) if line.partition(b" ")[0].decode() >= since]
        stamps = request.params.get("timestamps", "").lower() == "true"
        return web.Response(body=b"".join(line if stamps else line.partition(b" ")[2] for line in kept))

    # ---- the job controller ----

    async def _control(self, job: Any) -> None:
        """Pods, one after the other, until one succeeds or the policy says that it is enough."""
        metadata, spec = job.last.raw["metadata"], job.last.raw["spec"]
        failed, end = 0, None
        while end is None and not _is_deleted(job):
            if self.quota:
                self._warn(metadata["uid"], "FailedCreate", f'pods "{metadata["name"]}-" is forbidden: exceeded quota: gpus')
                await asyncio.sleep(0.1)
                continue
            name = f"{metadata['name']}-{uuid4().hex[:5]}"
            labels = {**spec["template"]["metadata"]["labels"], "batch.kubernetes.io/job-name": metadata["name"]}
            self._api.objects[(PODS, NAMESPACE, name)] = {
                "metadata": self.metadata(name, labels=labels),
                "spec": spec["template"]["spec"],
                "status": {"phase": "Pending"},
            }
            self.pods.append(name)
            pod = self._object(PODS, name)
            await self._run(pod, job)
            status = pod.last.raw["status"]
            if status["phase"] == "Succeeded":
                end = {"type": "Complete", "status": "True"}
            elif status["phase"] == "Failed":
                action = _action(spec, status)
                failed += action != "Ignore"
                if action == "FailJob":
                    end = {"type": "Failed", "status": "True", "reason": "PodFailurePolicy", "message": "matching FailJob rule"}
                elif failed > spec["backoffLimit"]:
                    end = {"type": "Failed", "status": "True", "reason": "BackoffLimitExceeded", "message": "too often"}
        if end is not None:
            job.patch({"status": {"conditions": [end]}})
        while not _is_deleted(job):
            await asyncio.sleep(0.05)
        for (kind, _, name), each in list(self._api.objects.items()):
            if kind == PODS and name.startswith(metadata["name"]) and not each.deleted:
                each.delete()
        if not job.deleted:
            job.delete()

    # ---- the node ----

    async def _run(self, pod: Any, job: Any) -> None:
        """Run a pod's container to its end, or wait for as long as it cannot run."""
        name = pod.last.raw["metadata"]["name"]
        [container] = pod.last.raw["spec"]["containers"]
        for turn in range(10_000):
            waits = self._waits(container, turn)
            if waits is None:
                break
            pod.patch({"status": {"phase": "Pending", **waits}})
            await asyncio.sleep(0.1)
            if _is_deleted(job):
                return
        log = (self.folder / f"{name}.log").open("wb", buffering=0)
        try:
            process = await asyncio.create_subprocess_exec(
                *map(_expanded, container["command"]), env=self._variables(container), stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        except FileNotFoundError as error:
            ended = {"exitCode": 128, "reason": "StartError", "message": f"exec: {error.filename}: not found in $PATH"}
            pod.patch({"status": {"phase": "Failed", **_status({"terminated": ended})}})
            return
        self._processes[name] = process
        pod.patch({"status": {"phase": "Running", "conditions": [], **_status({"running": {"startedAt": _now()}})}})
        deadline = time.monotonic() + pod.last.raw["spec"]["activeDeadlineSeconds"]
        killer = self._loop.create_task(self._end_with(process, job, name, deadline))
        async for line in process.stdout:
            log.write(_stamp().encode() + b" " + line)
        code = await process.wait()
        killer.cancel()
        log.close()
        mark = self._marks.get(name)
        more: dict[str, Any] = {"reason": mark} if mark == "DeadlineExceeded" else {}
        if mark == "disrupted":
            gone = {"type": "DisruptionTarget", "status": "True", "reason": "DeletionByTaintManager", "message": "node gone"}
            more = {"conditions": [gone]}
        reason = "OOMKilled" if mark == "OOMKilled" else "Completed" if code == 0 else "Error"
        ended = {"terminated": {"exitCode": code if code >= 0 else 128 - code, "reason": reason, "finishedAt": _now()}}
        if not pod.deleted:
            pod.patch({"status": {"phase": "Succeeded" if code == 0 else "Failed", **_status(ended), **more}})

    async def _end_with(self, process: Any, job: Any, name: str, deadline: float) -> None:
        """End a container with its job, or when its time is over: SIGTERM, then SIGKILL. Orphans stay."""
        while (not _is_deleted(job) or name.rpartition("-")[0] in self.orphaned) and time.monotonic() < deadline:
            await asyncio.sleep(0.05)
        if time.monotonic() >= deadline:
            self._marks[name] = "DeadlineExceeded"
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        await asyncio.sleep(_GRACE_SECONDS)
        self.kill(name)

    def _waits(self, container: dict[str, Any], turn: int) -> dict[str, Any] | None:
        """Why a container cannot run yet, as a pod's status; None when it can."""
        if int(container["resources"]["limits"].get("nvidia.com/gpu", 0)) > self.gpus:
            message = "0/1 nodes are available: 1 Insufficient nvidia.com/gpu."
            scheduled = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
            return {"conditions": [scheduled]}
        if container["image"] != IMAGE:
            cause = f'failed to pull and unpack image "{container["image"]}": not found'
            backs_off = {"reason": "ImagePullBackOff", "message": f'Back-off pulling image "{container["image"]}"'}
            waiting = backs_off if turn % 2 else {"reason": "ErrImagePull", "message": cause}
            return _status({"waiting": waiting})
        if missing := [
            each["secretRef"]["name"] for each in container["envFrom"] if each["secretRef"]["name"] not in self.secrets
        ]:
            return _status({"waiting": {"reason": "CreateContainerConfigError", "message": f'secret "{missing[0]}" not found'}})
        return None

    def _variables(self, container: dict[str, Any]) -> dict[str, str]:
        secrets = [self.secrets[each["secretRef"]["name"]] for each in container["envFrom"]]
        given = {each["name"]: _expanded(each["value"]) for each in container["env"]}
        return {"PATH": os.environ["PATH"], **{k: v for secret in secrets for k, v in secret.items()}, **given}

    def _object(self, kind: Any, name: str) -> Any:
        return self._api.objects[(kind, NAMESPACE, name)]

    def _warn(self, uid: str, reason: str, message: str) -> None:
        name = uuid4().hex
        self._api.objects[(EVENTS, NAMESPACE, name)] = {
            "metadata": self.metadata(name), "involvedObject": {"uid": uid}, "reason": reason, "message": message,
        }  # fmt: skip


def _action(spec: dict[str, Any], status: dict[str, Any]) -> str:
    """What the first rule of a job's policy that fits a failed pod says; without any, it is counted."""
    true = {each["type"] for each in status.get("conditions", []) if each["status"] == "True"}
    code = status["containerStatuses"][0]["state"]["terminated"]["exitCode"]
    for rule in spec["podFailurePolicy"]["rules"]:
        codes = rule.get("onExitCodes")
        if codes and (code in codes["values"]) is (codes["operator"] == "In"):
            return str(rule["action"])
        if true & {each["type"] for each in rule.get("onPodConditions", [])}:
            return str(rule["action"])
    return "Count"


def _is_deleted(thing: Any) -> bool:
    return thing.deleted or "deletionTimestamp" in thing["metadata"]


def _status(state: dict[str, Any]) -> dict[str, Any]:
    fields = {"name": "training", "image": IMAGE, "imageID": "", "ready": "running" in state, "restartCount": 0}
    return {"containerStatuses": [{**fields, "state": state}]}


def _expanded(text: str) -> str:
    """As the kubelet reads a word: `$$` is a dollar, and `$(NAME)` would be a variable."""
    return re.sub(r"\$(\$|\(\w+\))", lambda found: "$" if found[1] == "$" else "a variable", text)


def _now() -> str:
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


def _stamp(seconds_ago: float = 0) -> str:
    """As the kubelet writes it, with nine digits after the point."""
    return f"{datetime.now(UTC) - timedelta(seconds=seconds_ago):%Y-%m-%dT%H:%M:%S.%f}000Z"


@contextmanager
def cluster(folder: Path) -> Iterator[Cluster]:
    """A running one, with a kubeconfig in `folder`. Its contexts: lab, stranger (a wrong token), nowhere (no server)."""
    folder.mkdir()
    lab, ready = Cluster(folder), Queue[str]()
    thread = threading.Thread(target=lambda: asyncio.run(lab.serve(ready)))
    thread.start()
    url = ready.get(timeout=60)
    try:
        (folder / "kubeconfig").write_text(
            yaml.safe_dump(kubeconfig(lab=(url, TOKEN), stranger=(url, "no"), nowhere=("http://127.0.0.1:9", TOKEN)))
        )
        yield lab
    finally:
        lab.stop()
        thread.join()
    assert not lab.faults


def kubeconfig(**contexts: tuple[str, str]) -> dict[str, Any]:
    """A kubeconfig with a context for each address and token; the first one is current."""
    return {
        "apiVersion": "v1", "kind": "Config", "current-context": next(iter(contexts)),
        "clusters": [{"name": name, "cluster": {"server": url}} for name, (url, _) in contexts.items()],
        "users": [{"name": name, "user": {"token": token}} for name, (_, token) in contexts.items()],
        "contexts": [{"name": name, "context": {"cluster": name, "user": name}} for name in contexts],
    }  # fmt: skip
