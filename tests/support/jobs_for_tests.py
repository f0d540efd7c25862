"""Jobs as the tests need them, made as a manifest would make them."""

from __future__ import annotations

from batchgen.jobs import Job, Parameters, job_id


def job(prompt: str = "a fox", *, repeat: int = 0, **parameters: object) -> Job:
    wanted = Parameters(**parameters)  # type: ignore[arg-type]
    return Job(
        id=job_id(prompt, wanted.digest(), repeat),
        prompt=prompt,
        parameters=wanted,
        prompt_id=prompt.replace(" ", "-")[:40],
        repeat=repeat,
    )
