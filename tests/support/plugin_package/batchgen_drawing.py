"""An API in which the caller names the drawing: PUT /drawings/NAME creates it, GET /drawings/NAME returns its state."""

from batchgen.jobs import ImageLink, Job
from batchgen.providers.base import Provider, Task, TaskState
from batchgen.providers.responses import json_of, refusal

STATES = {"ready": TaskState.SUCCEEDED, "spoilt": TaskState.FAILED}


class DrawingProvider(Provider):
    async def create(self, job: Job, external_id: str) -> Task:
        request = {"text": job.prompt, "tool": job.parameters.model, "copies": job.parameters.n}
        answer = await self.send("PUT", f"/drawings/{external_id}", request)
        if answer.status != 201:
            raise refusal(answer, creating=True, operation="the create")
        return Task(id=external_id, state=TaskState.RUNNING, external_id=external_id)

    async def query(self, task_id: str) -> Task:
        answer = await self.send("GET", f"/drawings/{task_id}")
        drawing = json_of(answer)
        if answer.status != 200 or not isinstance(drawing, dict):
            raise refusal(answer, creating=False, operation="a query")
        sheets = [self.account.base_url + sheet for sheet in drawing.get("sheets", ())]
        return Task(
            id=task_id,
            state=STATES.get(drawing.get("is"), TaskState.RUNNING),
            external_id=task_id,
            links=tuple(ImageLink(index=index, url=url) for index, url in enumerate(sheets)),
            message=drawing.get("why", ""),
        )
