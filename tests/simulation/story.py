"""What happens in a life: accounts with their faults, a manifest, runs with what befalls them, and a user between them."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tests.simulation.liar import BOUNDS, CREATE_FAULTS, HABITS, IDS, QUERY_FAULTS, TOLD_FAULTS

if TYPE_CHECKING:
    from random import Random

# Kinds of accounts: the built-in one, whether tasks are found by our id, and whether they are listed.
KINDS: dict[str, dict[str, Any]] = {
    "own id": {"use": "kapon", "lookup_by_external_id": "yes", "lists_tasks": "no"},
    "own id and list": {"use": "kapon", "lookup_by_external_id": "yes", "lists_tasks": "yes"},
    "list": {"use": "kapon", "lookup_by_external_id": "no", "lists_tasks": "yes"},
    "two keys": {"use": "kling", "lookup_by_external_id": "try", "lists_tasks": "yes"},
    "nobody to ask": {"use": "anyapi"},
    "links in the answer": {"use": "openai", "models": ["picture-1", "picture-2"], "response_format": "url"},
    "images in the answer": {"use": "openai", "models": ["picture-1", "picture-2"], "response_format": "b64_json"},
}
_SUBJECTS = (
    "a cat",
    "a dog",
    "=SUM(A1)",
    "a boat at dawn",
    "ein Fuchs im Schnee",
    "富士山",
    "a key on a table",
    "a {{ what }}",
)
_RATES = (0.02, 0.1, 0.3, 0.7)


@dataclass(slots=True, kw_only=True)
class AccountPlan:
    """One account, and the habits of its gateway."""

    name: str
    kind: str
    rates: dict[str, float]
    skew: float
    latency: float
    sigma: float
    true_limit: int
    creates_per_minute: int | None
    is_per_key: bool
    settings: dict[str, Any]

    @property
    def has_ids(self) -> bool:
        return KINDS[self.kind]["use"] in {"kapon", "kling"}


@dataclass(slots=True, kw_only=True)
class Step:
    """A run, or something that the user does. `number` is its place; a shrunken story leaves some out."""

    number: int
    does: str
    given: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        details = ", ".join(f"{key}={value}" for key, value in self.given.items() if value)
        return f"step {self.number}: {self.does}{f' ({details})' if details else ''}"


@dataclass(slots=True, kw_only=True)
class Story:
    accounts: list[AccountPlan]
    manifest: dict[str, Any]
    steps: list[Step]


def draw(rng: Random) -> Story:
    """A story; all of it comes from `rng`."""
    kind = rng.choice(list(KINDS))
    is_openai = KINDS[kind]["use"] == "openai"
    others = [other for other in KINDS if (KINDS[other]["use"] == "openai") == is_openai]
    accounts = [_account(rng, "one", kind), _account(rng, "two", rng.choice(others))]
    manifest = _manifest(rng, accounts, is_openai=is_openai)
    steps: list[Step] = []
    for number in range(rng.choice((1, 2, 2, 3, 3, 4))):
        if number:
            for _ in range(rng.choice((0, 1, 1, 2, 3))):
                steps.append(_move(rng, len(steps)))
        steps.append(Step(number=len(steps), does="run", given=_run(rng, accounts)))
    return Story(accounts=accounts, manifest=manifest, steps=steps)


# --- accounts ---------------------------------------------------------------------------------------------------


def _account(rng: Random, name: str, kind: str) -> AccountPlan:
    use = KINDS[kind]["use"]
    has_ids = use in {"kapon", "kling"}
    host = f"http://{name}.test"
    settings: dict[str, Any] = KINDS[kind] | {
        "base_url": host if use in {"openai", "kling"} else f"{host}/kling",
        "prices": {"unit": "USD", "default": 0.02},
        "limits": {},
    }
    if use == "kling":
        settings |= {"access_key_env": f"KEY_{name.upper()}", "secret_key_env": f"SECRET_{name.upper()}"}
    else:
        settings["api_key_env"] = f"KEY_{name.upper()}"
    if rng.random() < 0.8:
        settings["limits"]["concurrency"] = rng.choice((3, 3, 4, 5, 9, 20))
    if rng.random() < 0.15:
        settings["limits"]["creates_per_minute"] = rng.choice((2, 10, 30))
    if use != "openai":
        settings["visibility_delay"] = rng.choice((4, 15))
    return AccountPlan(
        name=name,
        kind=kind,
        rates=_rates(rng, has_ids=has_ids, lists=KINDS[kind].get("lists_tasks") == "yes"),
        skew=rng.choice((0.0, 0.0, 0.0, -7200.0, 3600.0, 200.0)),
        latency=rng.choice((0.5, 5.0, 20.0, 60.0)),
        sigma=rng.choice((0.0, 0.3, 1.0)),
        true_limit=rng.choice((2, 4, 9, 20, 100, 100)),
        creates_per_minute=rng.choice((None, None, None, 5, 30)),
        is_per_key=has_ids and rng.random() < 0.3,
        settings=settings,
    )


def _rates(rng: Random, *, has_ids: bool, lists: bool) -> dict[str, float]:
    """A few faults of this account; some accounts have none."""
    rates: dict[str, float] = {}
    if rng.random() < 0.1:
        return rates
    drawn = (
        (CREATE_FAULTS, (0, 1, 1, 2, 3)),
        (QUERY_FAULTS, (0, 0, 1)),
        (TOLD_FAULTS, (0, 0, 1, 2)),
        (HABITS, (0, 0, 1, 2)),
    )
    for family, number in drawn:
        names = [fault for fault in family if has_ids or BOUNDS[fault] is not IDS]
        for fault in rng.sample(names, min(len(names), rng.choice(number))):
            rates[fault] = 1.0 if family is HABITS else rng.choice(_RATES)
    if "repeated" in rates:  # bound: the one question that follows a refusal has its answer
        kept = {"lookup pages"} if lists else set()
        hidden = {*HABITS, "query refused", "query page"} - kept
        rates = {fault: rate for fault, rate in rates.items() if fault not in hidden}
    return rates


# --- the manifest -----------------------------------------------------------------------------------------------


def _manifest(rng: Random, accounts: list[AccountPlan], *, is_openai: bool) -> dict[str, Any]:
    models = ["picture-1", "picture-2"] if is_openai else ["kling-v1", "kling-v2-1", "kling-v2"]
    ratios = ["1:1", "3:2", "2:3"] if is_openai else ["1:1", "16:9", "9:16", "4:3"]
    prompts = [_prompt(rng, number) for number in range(rng.choice((1, 2, 2, 3, 4, 6)))]
    matrix: dict[str, Any] = {
        "prompt": prompts,
        "model": rng.sample(models, rng.choice((1, 1, 2))),
        "aspect_ratio": rng.sample(ratios, rng.choice((1, 2, 2, 3))),
    }
    if any("{{" in str(prompt) for prompt in prompts):
        matrix["vars"] = {"what": rng.sample(["mug", "lamp", "chair"], rng.choice((1, 2)))}
    if rng.random() < 0.1:
        matrix["sample"] = {"count": rng.choice((3, 8)), "seed": rng.randrange(9)}
    manifest: dict[str, Any] = {
        "version": 1,
        "name": "life",
        "provider": "one",
        "providers": {account.name: account.settings for account in accounts},
        "defaults": {"n": rng.choice((1, 1, 1, 2, 3))},
        "matrix": matrix,
        "run": {
            "max_attempts": rng.choice((1, 2, 4)),
            "give_up_after": rng.choice(("60s", "5m", "10m")),
            "grace": rng.choice(("0s", "5s")),
            "downloads": rng.choice((1, 2, 8)),
        },
    }
    if rng.random() < 0.1:
        manifest["run"]["task_timeout"] = rng.choice(("10s", "2m"))
    if rng.random() < 0.1:
        manifest["run"]["on_unknown"] = "resend"
    if rng.random() < 0.15:
        manifest["repeat"] = 2
    if rng.random() < 0.1 and len(matrix["aspect_ratio"]) > 1:
        manifest["exclude"] = [{"aspect_ratio": matrix["aspect_ratio"][0], "model": matrix["model"][0]}]
    if rng.random() < 0.15:
        manifest["include"] = [{"prompt": "one more", "id": "more", "n": 2, "model": models[0]}]
    if rng.random() < 0.2:
        manifest["budget"] = {"max_images": rng.choice((2, 5, 9))}
    elif rng.random() < 0.1:
        manifest["budget"] = {"max_cost": rng.choice((0.05, 0.2))}
    if not is_openai and rng.random() < 0.2:
        manifest["callback"] = {"public_url": "http://user.test/hook", "listen": "127.0.0.1:8787"}
    if rng.random() < 0.2:
        manifest["output"] = {"path": rng.choice(_PATHS)}
    if all(account.has_ids for account in accounts) and rng.random() < 0.1:
        manifest["defaults"]["watermark_info"] = {"enabled": True}
    return manifest


_PATHS = ("{prompt_id}-{job_id}-{index}{ext}", "{aspect_ratio}/{model}/{job_id}_{index}{ext}")


def _prompt(rng: Random, number: int) -> Any:
    text = f"{rng.choice(_SUBJECTS)}, number {number}"
    return {"prompt": text, "id": f"p{number}"} if rng.random() < 0.5 else text


def edited(manifest: dict[str, Any], what: str, seed: int) -> dict[str, Any]:
    """The manifest after an edit; the same one where there is nothing to edit."""
    new = deepcopy(manifest)
    prompts, matrix = new["matrix"]["prompt"], new["matrix"]
    match what:
        case "add prompt":
            prompts.append(f"another thing, number {seed}")
        case "remove prompt" if len(prompts) > 1:
            prompts.pop(seed % len(prompts))
        case "reverse prompts":
            prompts.reverse()
        case "rename":
            prompts[seed % len(prompts)] = {"prompt": _text(prompts[seed % len(prompts)]), "id": f"named-{seed}"}
        case "more images":
            new["defaults"]["n"] = 1 + seed % 3
        case "other path":
            new["output"] = {"path": _PATHS[seed % len(_PATHS)]}
        case "one ratio fewer" if len(matrix["aspect_ratio"]) > 1 and "exclude" not in new:
            matrix["aspect_ratio"].pop(seed % len(matrix["aspect_ratio"]))
        case "more budget":
            new.pop("budget", None)
        case "repeat":
            new["repeat"] = 1 + seed % 2
        case "other provider":
            new["provider"] = "two" if new["provider"] == "one" else "one"
        case "more attempts":
            new["run"]["max_attempts"] = 1 + seed % 5
        case "other concurrency":
            for account in new["providers"].values():
                account["limits"]["concurrency"] = (3, 4, 9)[seed % 3]
        case "resend":
            new["run"]["on_unknown"] = ("hold", "resend")[seed % 2]
        case "other price":
            for account in new["providers"].values():
                account["prices"]["default"] = (0.01, 0.05)[seed % 2]
    return new


def _text(prompt: Any) -> str:
    return prompt["prompt"] if isinstance(prompt, dict) else prompt


EDITS = (
    *("add prompt", "remove prompt", "reverse prompts", "rename", "more images", "other path", "one ratio fewer"),
    *("more budget", "repeat", "other provider", "more attempts", "other concurrency", "resend", "other price"),
)

# --- what happens -----------------------------------------------------------------------------------------------

MOVES = {  # each with its weight; docs/simulation.md says how to add one
    "edit": 8,
    "delete files": 3,
    "delete all images": 1,
    "damage a file": 2,
    "return files": 2,
    "delete a view": 1,
    "set a key": 2,
    "keep the ledger": 2,
    "restore the ledger": 2,
    "copy the output": 1,
    "other output": 1,
    "rehearse": 1,
    "look": 2,
    "ask": 1,
    "adopt": 2,
    "set the clock": 1,
    "wait": 4,
}
_SECONDS = {"wait": (600.0, 7200.0, 90_000.0, 400_000.0), "set the clock": (-90_000.0, -3600.0, 7200.0, 200_000.0)}


def _move(rng: Random, number: int) -> Step:
    """`seed` is for what the move itself has to choose."""
    does = rng.choices(list(MOVES), list(MOVES.values()))[0]
    given: dict[str, Any] = {"seed": rng.randrange(1000)}
    if does == "edit":
        given["what"] = rng.choice(EDITS)
    if does in _SECONDS:
        given["seconds"] = rng.choice(_SECONDS[does])
    return Step(number=number, does=does, given=given)


def _run(rng: Random, accounts: list[AccountPlan]) -> dict[str, Any]:
    """The options of a run, and what befalls it."""
    options: dict[str, Any] = {}
    if rng.random() < 0.15:
        options["only"] = [rng.choice(("model=kling-v1", "aspect_ratio=1:1", "prompt=*number 1*", "model=picture-1"))]
    if rng.random() < 0.15:
        options["limit"] = rng.choice((1, 3, 10))
    if rng.random() < 0.1:
        options["max_cost"] = rng.choice((0.02, 0.1))
    if rng.random() < 0.1:
        options["deadline"] = rng.choice((0.0, 5.0, 60.0, 600.0))
    for flag, share in (("retry_failed", 0.2), ("retry_unknown", 0.12), ("refetch", 0.1)):
        if rng.random() < share:
            options[flag] = True
    befalls: dict[str, Any] = {"options": options}
    end = rng.random()
    if end < 0.25:
        befalls["killed at step"] = int(10 ** rng.uniform(0.5, 3.3))
    elif end < 0.45:
        befalls["killed at point"] = int(10 ** rng.uniform(0, 2.2))
    elif end < 0.52:
        befalls["power cut at step"] = int(10 ** rng.uniform(0.5, 3.3))
    elif end < 0.6:
        befalls["interrupted at step"] = [int(10 ** rng.uniform(0.5, 3.3)) for _ in range(rng.choice((1, 1, 2)))]
    if rng.random() < 0.08:
        befalls["suspended at step"] = (
            int(10 ** rng.uniform(0.5, 3)),
            rng.choice((3.0, 70.0, 40_000.0)),
            rng.random() < 0.5,
        )
    if rng.random() < 0.06:
        befalls["clock set at step"] = (
            int(10 ** rng.uniform(0.5, 3)),
            rng.choice((-90_000.0, -60.0, 4000.0, 90_000.0)),
        )
    if rng.random() < 0.06:
        befalls["disk full at step"] = int(10 ** rng.uniform(0, 3))
    if rng.random() < 0.15:
        kind = rng.choice(("refused", "page", "silent", "money", "key", "images"))
        befalls["window"] = (
            rng.choice(accounts).name,
            kind,
            rng.choice((0.0, 3.0, 30.0)),
            rng.choice((10.0, 120.0, 90_000.0)),
        )
    return befalls
