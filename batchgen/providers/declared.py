"""An API that a definition describes: its requests are templates, its answers are read by selectors.

The promise about money is that of every provider. After a create, only what the definition or batchgen's own rules
take for a refusal is one: what is cut, empty, odd, or names a task at a strange host is Unclear. The key goes to the
definition's hosts alone.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from batchgen.apis.values import rendered
from batchgen.errors import (
    JobError,
    JobRefused,
    JobRejected,
    OwnRefusal,
    TaskNotFound,
    Unclear,
)
from batchgen.providers import policy, responses
from batchgen.providers.base import SINCE_MS, UNUSED_ID, Page, SentCreate, Task, TaskState
from batchgen.providers.declared_answers import cost, links, marks_of, message, milliseconds
from batchgen.providers.declared_requests import DeclaredRequests
from batchgen.templates import TemplateInvalid

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from batchgen.apis.definition import Step
    from batchgen.catalog.accounts import Account
    from batchgen.http.client import Answer, HttpClient
    from batchgen.jobs import Job
    from batchgen.providers.base import Secrets

_LONGEST_WORD = 40  # of the API's own state
_STATES = {
    "running": TaskState.RUNNING,
    "done": TaskState.SUCCEEDED,
    "failed": TaskState.FAILED,
    "rejected": TaskState.REJECTED,
}


class DeclaredProvider(DeclaredRequests):
    """One account whose definition says how to speak to it."""

    def __init__(self, account: Account, client: HttpClient, secrets: Secrets) -> None:
        super().__init__(account, client, secrets)
        self.can_query = "query" in self._steps
        self.looks_by_model = self._api.looks_by_model
        self.lists_since = "list" in self._steps and "sent_at" in self._steps["list"].names
        self._owners: dict[str, str | None] = {}  # our ids by their mark in a list; None: two of them share it
        # Where the list goes on, for each reading by itself: another one may have begun at another time.
        self._readings: WeakKeyDictionary[asyncio.Task[Any], tuple[int, str]] = WeakKeyDictionary()

    def sends_id(self, job: Job) -> bool:
        """Unless the job gives a value that the create sends in place of a mark, such as a seed of the user's own."""
        given = {name for name, _ in job.parameters.further}
        return super().sends_id(job) and not (given and given & self._api.in_place_of_marks)

    @property
    def can_poll_list(self) -> bool:
        """A list is read for lost answers only: it may say less of a task than the task itself."""
        return False

    # --- the create -----------------------------------------------------------------------------------------

    async def create(self, job: Job, external_id: str) -> Task:
        """Send the create's request; the answer names a task, or holds the images."""
        step = self._steps["create"]
        try:
            values = {**await self._of_job(job, external_id), **marks_of(external_id)}
            sent = rendered({"query": step.query, "headers": step.headers, "body": step.body}, values)
            url = self._url(step, values, sent)
        except TemplateInvalid as error:
            raise OwnRefusal(f"The request cannot be made: {error}", code="local") from error
        has_mark = self.sends_id(job)
        answer = await self._exchange(step, url, sent, images=job.parameters.n, new_connection=not has_mark)
        body = responses.json_of(answer)
        if self._is_yes(step, answer, body):
            if (task := self._accepted(step, answer, body, external_id)) is not None:
                return task if has_mark or "task" not in step.selectors else replace(task, external_id=None)
            if not self._api.means(step, answer.status, body) and step.is_blocked(body):
                raise JobRejected(
                    f"The API made no image: {message(step, body, 'blocked')}",
                    code="blocked",
                    body_excerpt=answer.body_excerpt,
                )
        raise self._refusal(step, answer, body, "the create")

    def _accepted(self, step: Step, answer: Answer, body: Any, external_id: str) -> Task | None:  # noqa: ANN401
        """The task of a create that was answered with yes; None where the answer names neither task nor images."""
        told = self._told(step, body, external_id)
        if "task" not in step.selectors:
            if not (images := links(step, answer, body, self.root_url)):
                return None
            return Task(
                id=external_id,
                state=TaskState.SUCCEEDED,
                external_id=external_id,
                links=images,
                by_order=True,
                cost=cost(step, body),
            ).noting(answer)
        if not (task_id := self._task_id(step, body)):
            return None
        return Task(id=task_id, state=TaskState.RUNNING, external_id=told, body_excerpt=answer.body_excerpt).noting(
            answer
        )

    def _task_id(self, step: Step, body: Any) -> str:  # noqa: ANN401 - any value of JSON
        """The task's id, or its address. Raises Unclear where that is an address at a strange host."""
        task_id = step.selectors["task"].word(body)
        if task_id in {".", ".."}:
            return ""
        if task_id and not self._may_follow(task_id):
            raise Unclear(
                f"The API names a task at {task_id[:120]}, where the key may not be sent."
                " If this is an address of the vendor, add its host to `hosts` of the definition."
            )
        return self._hosts.named(task_id)

    def _may_follow(self, task_id: str) -> bool:
        """Whether the key may go where a task is: its id, or its address."""
        follow = [self._steps[name] for name in ("query", "result") if name in self._steps]
        return not any(each.begins_with_task for each in follow) or self._hosts.allow(task_id)

    def _told(self, step: Step, body: Any, external_id: str) -> str | None:  # noqa: ANN401 - any value of JSON
        """Our own id where the answer repeats its mark, another text where it repeats another; None without one."""
        mark = self._api.mark
        if mark is None or "mark" not in step.selectors or not (told := step.selectors["mark"].word(body)):
            return None
        return external_id if told == mark.text(marks_of(external_id)) else f"?{told}"

    # --- queries --------------------------------------------------------------------------------------------

    async def query(self, task_id: str) -> Task:
        if (step := self._steps.get("query")) is None:
            raise TaskNotFound(f"The account {self.account.name!r} cannot be queried for {task_id}.")
        answer, body = await self._ask(step, {"task": task_id})
        if (ended := self._ended(step, answer, body, task_id)) is not None:
            return ended
        task = self._seen(step, answer, body, task_id)
        if task.state is not TaskState.SUCCEEDED or "result" not in self._steps:
            return task
        step = self._steps["result"]
        answer, body = await self._ask(step, {"task": task_id})
        if (ended := self._ended(step, answer, body, task_id)) is not None:
            return ended
        return self._with_images(step, answer, body, replace(task, cost=cost(step, body) or task.cost))

    def _ended(self, step: Step, answer: Answer, body: Any, task_id: str) -> Task | None:  # noqa: ANN401
        """A task that has ended without images, by what the definition says of such an answer.

        Raises what any other answer means that is not a yes.
        """
        means = self._api.means(step, answer.status, body)
        if 200 <= answer.status < 300 and not means:
            return None
        error = self._refusal(step, answer, body, "a query")
        if means not in {"rejected", "refused", "again"}:
            raise error
        state = TaskState.FAILED if means == "again" else TaskState.REJECTED
        return Task(id=task_id, state=state, message=str(error), body_excerpt=answer.body_excerpt).noting(answer)

    def _seen(self, step: Step, answer: Answer, body: Any, task_id: str) -> Task:  # noqa: ANN401
        """The task as an answer with its state describes it. Raises TaskNotFound, Unclear."""
        state, word = step.state(body)
        if not state or not self._is_yes(step, answer, body):
            raise Unclear("The API's answer does not say how far the task is.", body_excerpt=answer.body_excerpt)
        if state == "missing":
            raise TaskNotFound(f"The API answered {word[:_LONGEST_WORD]!r} for the task {task_id}.", code=word)
        words = message(step, body, "message")
        found = _STATES[state]
        if found is TaskState.FAILED and policy.is_refusal(words):
            found = TaskState.REJECTED
        task = Task(
            id=task_id,
            state=found,
            message=words or (word if state == "rejected" else ""),
            unknown_status="" if word.lower() in step.states else word[:_LONGEST_WORD],
            cost=cost(step, body),
            body_excerpt=answer.body_excerpt,
        ).noting(answer)
        return self._with_images(step, answer, body, task) if found is TaskState.SUCCEEDED else task

    def _with_images(self, step: Step, answer: Answer, body: Any, task: Task) -> Task:  # noqa: ANN401
        """A finished task with its links; rejected where the answer says that there are none for policy."""
        images = links(step, answer, body, self.root_url)
        if not images and step.is_blocked(body):
            return replace(task, state=TaskState.REJECTED, message=message(step, body, "blocked"))
        return replace(task, links=images or task.links, by_order=True)

    async def find(self, external_id: str) -> Task:
        return await self.find_sent(SentCreate(external_id=external_id))

    async def find_sent(self, sent: SentCreate) -> Task:
        """Ask by our own id: not found is what every one of the steps says."""
        step: Step | None = self._steps["find"]
        external_id, values = sent.external_id, {**marks_of(sent.external_id), "model": self._model(sent)}
        while step is not None:
            answer, body = await self._ask(step, values)
            task_id = self._found(step, answer, body, external_id)
            if task_id:
                return await self._confirmed(step, answer, body, task_id)
            step = step.alternative
        raise TaskNotFound("The API has no task with our own id.", code="missing")

    def _found(self, step: Step, answer: Answer, body: Any, external_id: str) -> str:  # noqa: ANN401
        """The id of the task that an answer names; empty where it says that there is none."""
        try:
            if not self._is_yes(step, answer, body) or self._api.means(step, answer.status, body):
                raise self._refusal(step, answer, body, "a query by our own id")
        except TaskNotFound:
            return ""
        except JobError as error:
            raise Unclear(str(error), body_excerpt=answer.body_excerpt) from error
        if "items" in step.selectors:
            items = step.selectors["items"].of(body)
            if not isinstance(items, list):
                raise Unclear("The API's answer is not a list of tasks.", body_excerpt=answer.body_excerpt)
            told = [self._told(step, item, external_id) for item in items]
            if external_id not in told:
                if None in told:
                    raise Unclear("The API's list has a task without the id that was sent.")
                return ""
            body = items[told.index(external_id)]
        elif "missing" in step.selectors and step.selectors["missing"].holds(body):
            return ""
        elif self._told(step, body, external_id) not in {None, external_id}:
            raise Unclear("The API answered a query for our own id with another task.")
        if not (task_id := self._task_id(step, body)):
            raise Unclear("The API's answer names no task.", body_excerpt=answer.body_excerpt)
        return task_id

    async def _confirmed(self, step: Step, answer: Answer, body: Any, task_id: str) -> Task:  # noqa: ANN401
        """What was found by our own id, as its own query describes it."""
        if "state" in step.selectors:
            return self._seen(step, answer, body, task_id)
        try:
            return await self.query(task_id)
        except TaskNotFound as error:
            if "items" in step.selectors:  # it waits in a queue, of which the query does not know yet
                return Task(id=task_id, state=TaskState.RUNNING)
            raise Unclear(f"The API names the task {task_id} by our own id, but does not know it: {error}") from error

    # --- the list -------------------------------------------------------------------------------------------

    def expect(self, external_ids: Iterable[str]) -> None:
        """Compute the marks by which the list names these attempts."""
        if self._api.mark is None:
            return
        for external_id in external_ids:
            mark = self._api.mark.text(marks_of(external_id))
            if self._owners.setdefault(mark, external_id) != external_id:
                self._owners[mark] = None

    async def page(self, number: int, size: int) -> Page:
        return await self.page_for(SentCreate(external_id=""), number, size)

    async def page_for(self, sent: SentCreate, number: int, size: int) -> Page:
        """A page of the list; each reader, an asyncio task, goes on where its own last page ended."""
        if not self.can_list:
            return await super().page(number, size)
        step, reader = self._steps["list"], asyncio.current_task()
        wanted, where = (1, "") if number == 1 or reader is None else self._readings.get(reader, (0, ""))
        if wanted != number:
            raise JobRefused("The definition does not say where the list of tasks goes on.", code="local")
        if number > 1 and not where:
            return Page(tasks=())
        since = datetime.fromtimestamp((sent.sent_at - SINCE_MS) // 1000, UTC) if sent.sent_at else None
        values = {
            "models": ",".join(self.account.models),
            "model": self._model(sent),
            "sent_at": since.strftime("%Y-%m-%dT%H:%M:%SZ") if since else None,
        }
        answer, body = await self._ask(step, values, goes_on=where)
        self._check_yes(step, answer, body, "a list of tasks")
        items = step.selectors["items"].of(body)
        if not isinstance(items, list):
            raise Unclear("The API's list of tasks is not a list.", body_excerpt=answer.body_excerpt)
        following = self._next(step, body)
        if following and not items:  # an empty page would be taken for the end
            raise Unclear("The API's list of tasks has an empty page before its end.")
        if reader is not None and following is not None:
            self._readings[reader] = (number + 1, following)
        return Page(tasks=tuple(self._listed(step, item).noting(answer) for item in items))

    def _model(self, sent: SentCreate) -> str:
        """What the API calls the model of a create; the first of the account's where it is not known."""
        model = sent.model or self.account.models[0]
        return self._api.words.get("model", {}).get(model, model)

    def _next(self, step: Step, body: Any) -> str | None:  # noqa: ANN401 - any value of JSON
        """Where the list goes on: an address or a cursor, empty at its end; None where the definition says nothing."""
        if step.next_url is not None:
            return step.next_url.word(body)
        return step.next_query[1].word(body) if step.next_query is not None else None

    def _listed(self, step: Step, item: Any) -> Task:  # noqa: ANN401 - any value of JSON
        """A task of the list. Raises Unclear for one without an id: the list would prove what it does not show."""
        if not (task_id := self._task_id(step, item)):
            raise Unclear("The API's list has a task without an id.")
        mark = step.selectors["mark"].word(item)
        word = step.selectors["state"].word(item) if "state" in step.selectors else ""
        return Task(
            id=task_id,
            # What is not said to run proves nothing of what runs.
            state=_STATES.get(step.states.get(word.lower(), ""), TaskState.SUCCEEDED),
            external_id=self._owners.get(mark, f"?{mark}") if mark else None,
            created_ms=milliseconds(step.selectors["created"].of(item)) if "created" in step.selectors else None,
        )

    async def probe(self) -> str | None:
        """As `Provider.probe`; NotImplementedError where only a paid request needs the key."""
        if (step := self._steps.get("probe")) is not None:
            answer, body = await self._ask(step, {"models": ",".join(self.account.models)})
            self._check_yes(step, answer, body, "its probe")
            return message(step, body, "balance")
        query = self._steps.get("query")
        if self.can_list:
            await self.page(1, 1)
        elif query is None or query.begins_with_task or query.method != "GET":
            raise NotImplementedError("no free request is known")
        else:
            await self.query(UNUSED_ID)
        return None

    def parse_callback(self, call: Mapping[str, Any]) -> Task | None:
        """The task that a call names; without a word for its state, the call comes at its end."""
        if (callback := self._api.callback) is None:
            return None
        told = callback.read(dict(call), self._steps.get("query"))
        if told["task"] in {"", ".", ".."} or not self._may_follow(told["task"]):
            return None
        return Task(id=self._hosts.named(told["task"]), state=_STATES.get(told["state"], TaskState.RUNNING))

    @property
    def finds_by_callback(self) -> bool:
        return self.can_query and self._api.callback is not None
