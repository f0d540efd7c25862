"""What happens in a life: accounts and their faults, a manifest, runs and what befalls them, and a user between."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Any

from tests.simulation.liar import BOUNDS, CREATE_FAULTS, HABITS, IDS, QUERY_FAULTS, TOLD_FAULTS

if TYPE_CHECKING:
    from collections.abc import Callable

# Kinds of accounts: the built-in one, whether tasks are found by our id, and whether they are listed.
_PICTURES = {"use": "openai", "models": ["picture-1", "picture-2"]}
KINDS: dict[str, dict[str, Any]] = {
    "own id": {"use": "kapon", "lookup_by_external_id": "yes", "lists_tasks": "no"},
    "own id and list": {"use": "kapon", "lookup_by_external_id": "yes", "lists_tasks": "yes"},
    "list": {"use": "kapon", "lookup_by_external_id": "no", "lists_tasks": "yes"},
    "two keys": {"use": "kling", "lookup_by_external_id": "try", "lists_tasks": "yes"},
    "nobody to ask": {"use": "anyapi"},
    "links in the answer": _PICTURES | {"response_format": "url"},
    "images in the answer": _PICTURES | {"response_format": "b64_json"},
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
    settings: dict[str, Any]  # in the manifest
    sandbox: dict[str, Any]  # what is true of the gateway
    has_ids: bool
    rates: dict[str, float]
    skew: float  # seconds that its clock is ahead
    is_per_key: bool  # a key sees its own tasks alone


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
        for _ in range(rng.choice((0, 1, 1, 2, 3)) if number else 0):
            steps.append(_move(rng, len(steps)))
        steps.append(Step(number=len(steps), does="run", given=_run(rng)))
    _insert_pair(rng, steps)
    _add_scene(Random(rng.random()), accounts[0], steps)
    return Story(accounts=accounts, manifest=manifest, steps=steps)


def _insert_pair(rng: Random, steps: list[Step]) -> None:
    """Two moves that mean something together, with a run between them."""
    runs, what = [step.number for step in steps if step.does == "run"], rng.random()
    if len(runs) > 1 and what < 0.15:  # the ledger of yesterday
        steps.insert(runs[-1], Step(number=0, does="restore the ledger", given={"seed": 0}))
        if rng.random() < 0.4:
            steps.insert(runs[-1], Step(number=0, does="delete a view", given={"seed": 1}))
        steps.insert(runs[rng.randrange(len(runs) - 1)] + 1, Step(number=0, does="keep the ledger", given={"seed": 0}))
    elif len(runs) > 2 and what > 0.7:  # files that are away for a run
        steps.insert(runs[-1], Step(number=0, does="return files", given={"seed": 0}))
        steps.insert(runs[-2], Step(number=0, does="delete files", given={"seed": 0}))
    for number, step in enumerate(steps):
        step.number = number


def _add_scene(rng: Random, account: AccountPlan, steps: list[Step]) -> None:
    """Now and then what seldom comes together by itself."""
    runs = [step for step in steps if step.does == "run"]
    first, last = runs[0].given, runs[-1].given
    what = rng.random() if len(runs) > 1 else 1.0
    if what < 0.04:  # the images' host refuses them for days
        for given in (first, last):
            given |= {"window": (account.name, "images", 0.0, 90_000.0), "options": {}}
            given.pop("killed at step", None)
        steps.insert(runs[-1].number, Step(number=0, does="wait", given={"seed": 0, "seconds": 90_000.0}))
    elif what < 0.08:  # files that move, and the lights go out
        steps.insert(
            runs[-1].number, Step(number=0, does="edit", given={"seed": rng.randrange(1000), "what": "other path"})
        )
        last["power cut at point"] = 1 + int(60 * rng.random() ** 2)
    elif what < 0.12 and account.has_ids:  # jobs have failed in the ledger of yesterday
        account.rates["task fails"] = 0.7
        last["options"] = {"retry_failed": True}
        steps.append(Step(number=0, does="restore the ledger", given={"seed": 0}))
        steps.insert(runs[-1].number, Step(number=0, does="keep the ledger", given={"seed": 0}))
    for number, step in enumerate(steps):
        step.number = number


# --- accounts ---------------------------------------------------------------------------------------------------


def _account(rng: Random, name: str, kind: str) -> AccountPlan:
    use, host = KINDS[kind]["use"], f"http://{name}.test"
    has_ids = use in {"kapon", "kling"}
    limits: dict[str, Any] = {}
    settings: dict[str, Any] = KINDS[kind] | {"prices": {"unit": "USD", "default": 0.02}, "limits": limits}
    settings["base_url"] = host if use in {"openai", "kling"} else f"{host}/kling"
    settings["access_key_env" if use == "kling" else "api_key_env"] = f"KEY_{name.upper()}"
    if use == "kling":
        settings["secret_key_env"] = f"SECRET_{name.upper()}"
    if use != "openai":
        settings["visibility_delay"] = rng.choice((4, 15))
    if rng.random() < 0.8:
        limits["concurrency"] = rng.choice((3, 3, 4, 5, 9, 20))
    if rng.random() < 0.15:
        limits["creates_per_minute"] = rng.choice((2, 10, 30))
    sandbox = {
        "emulate": use,
        "lists_tasks": settings.get("lists_tasks") == "yes",
        "lookup_by_external_id": settings.get("lookup_by_external_id") in {"yes", "try"},
        "models": tuple(settings.get("models", ())),
        "response_format": settings.get("response_format", "b64_json"),
        "latency": rng.choice((0.5, 5.0, 20.0, 60.0)),
        "latency_sigma": rng.choice((0.0, 0.3, 1.0)),
        "concurrency": rng.choice((3, 4, 9, 20, 100, 100)),
        "creates_per_minute": rng.choice((None, None, None, 5, 30)),
        "seed": rng.randrange(1000),
    }
    rates = _rates(rng, has_ids=has_ids, lists=sandbox["lists_tasks"])
    skew, is_per_key = rng.choice((0.0, 0.0, 0.0, -7200.0, 3600.0, 200.0)), use == "kapon" and rng.random() < 0.3
    if "list without ids" in rates and rng.random() < 0.5:  # it matters whose clock is believed
        skew = -7200.0
    if "hides running" in rates:  # and some tasks run much longer than others
        sandbox["latency_sigma"] = 1.0
    return AccountPlan(
        name=name, settings=settings, sandbox=sandbox, has_ids=has_ids, rates=rates, skew=skew, is_per_key=is_per_key
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
    if rates.keys() & HABITS.keys() and rng.random() < 0.6:  # a look-up that lies matters where a create was lost
        rates[rng.choice(("lost after", "silent after", "page after", "garbled", "late"))] = rng.choice(_RATES)
    if rng.random() < 0.06:
        rates["odd words"] = 0.7
    if "cache" in rates:  # it matters where somebody asks before the task is there
        rates["late"] = rng.choice(_RATES)
    if "repeated" in rates and rng.random() < 0.4:  # it matters whether the question after it has an answer
        rates[rng.choice(("query lost", "query silent"))] = 0.7
    if "repeated" in rates:  # bound: the one question that follows a refusal has its answer
        hidden = {*HABITS, "query refused", "query page", "query of other", "refused as page"} - (
            {"lookup pages"} if lists else set()
        )
        rates = {fault: rate for fault, rate in rates.items() if fault not in hidden}
    return rates


# --- the manifest -----------------------------------------------------------------------------------------------

_PATHS = ("{prompt_id}-{job_id}-{index}{ext}", "{aspect_ratio}/{model}/{job_id}_{index}{ext}")
_HOOK = {"public_url": "http://user.test/hook", "listen": "127.0.0.1:8787"}
_OPTIONAL: tuple[tuple[float, str, str, tuple[Any, ...]], ...] = (  # share, block, key, values
    (0.1, "run", "task_timeout", ("10s", "2m")),
    (0.1, "run", "on_unknown", ("resend",)),
    (0.15, "", "repeat", (2,)),
    (
        0.2,
        "",
        "budget",
        ({"max_images": 2}, {"max_images": 5}, {"max_images": 9}, {"max_cost": 0.05}, {"max_cost": 0.2}),
    ),
    (0.2, "", "output", tuple({"path": path} for path in _PATHS)),
    (0.1, "matrix", "sample", ({"count": 3, "seed": 1}, {"count": 8, "seed": 2})),
)


def _manifest(rng: Random, accounts: list[AccountPlan], *, is_openai: bool) -> dict[str, Any]:
    models = _PICTURES["models"] if is_openai else ["kling-v1", "kling-v2-1", "kling-v2"]
    ratios = ["1:1", "3:2", "2:3"] if is_openai else ["1:1", "16:9", "9:16", "4:3"]
    prompts = [_prompt(rng, number) for number in range(rng.choice((1, 2, 2, 3, 3, 5)))]
    matrix: dict[str, Any] = {
        "prompt": prompts,
        "model": rng.sample(models, rng.choice((1, 1, 2))),
        "aspect_ratio": rng.sample(ratios, rng.choice((1, 2, 2, 3))),
    }
    if any("{{" in _text(prompt) for prompt in prompts):
        matrix["vars"] = {"what": rng.sample(["mug", "lamp", "chair"], rng.choice((1, 2)))}
    run = {
        "max_attempts": rng.choice((1, 2, 4)),
        "give_up_after": rng.choice(("60s", "5m", "10m")),
        "grace": rng.choice(("0s", "5s")),
        "downloads": rng.choice((1, 2, 8)),
    }
    manifest: dict[str, Any] = {"version": 1, "name": "life", "provider": "one", "matrix": matrix, "run": run}
    manifest["providers"] = {account.name: account.settings for account in accounts}
    has_few_links = any("list few links" in account.rates for account in accounts)
    manifest["defaults"] = {"n": rng.choice((2, 3) if has_few_links else (1, 1, 1, 2, 3))}
    for share, block, key, values in _OPTIONAL:
        if rng.random() < share:
            (manifest[block] if block else manifest)[key] = rng.choice(values)
    if rng.random() < 0.1 and len(matrix["aspect_ratio"]) > 1:
        manifest["exclude"] = [{"aspect_ratio": matrix["aspect_ratio"][0], "model": matrix["model"][0]}]
    if rng.random() < 0.15:
        manifest["include"] = [{"prompt": "one more", "id": "more", "n": 2, "model": models[0]}]
    if not is_openai and rng.random() < 0.2:
        manifest["callback"] = _HOOK
    if all(account.has_ids for account in accounts) and rng.random() < 0.1:
        manifest["defaults"]["watermark_info"] = {"enabled": True}
    return manifest


def _prompt(rng: Random, number: int) -> Any:
    text = f"{rng.choice(_SUBJECTS)}, number {number}"
    return {"prompt": text, "id": f"p{number}"} if rng.random() < 0.5 else text


def _text(prompt: Any) -> str:
    return str(prompt["prompt"] if isinstance(prompt, dict) else prompt)


def _shortened(values: list[Any], seed: int) -> None:
    if len(values) > 1:
        values.pop(seed % len(values))


def _named(prompts: list[Any], seed: int) -> None:
    prompts[seed % len(prompts)] = {"prompt": _text(prompts[seed % len(prompts)]), "id": f"named-{seed}"}


def _each_account(new: dict[str, Any], block: str, key: str, value: Any) -> None:
    for account in new["providers"].values():
        account[block][key] = value


EDITS: dict[str, Callable[[dict[str, Any], int], object]] = {  # of a copy of the manifest, by a number
    "add prompt": lambda new, seed: new["matrix"]["prompt"].append(f"another thing, number {seed}"),
    "remove prompt": lambda new, seed: _shortened(new["matrix"]["prompt"], seed),
    "reverse prompts": lambda new, _: new["matrix"]["prompt"].reverse(),
    "rename": lambda new, seed: _named(new["matrix"]["prompt"], seed),
    "more images": lambda new, seed: new["defaults"].update(n=1 + seed % 3),
    "other path": lambda new, seed: new.update(output={"path": _PATHS[seed % 2]}),
    "fewer ratios": lambda new, seed: "exclude" in new or _shortened(new["matrix"]["aspect_ratio"], seed),
    "no budget": lambda new, _: new.pop("budget", None),
    "repeat": lambda new, seed: new.update(repeat=1 + seed % 2),
    "other provider": lambda new, _: new.update(provider="two" if new["provider"] == "one" else "one"),
    "more attempts": lambda new, seed: new["run"].update(max_attempts=1 + seed % 5),
    "other concurrency": lambda new, seed: _each_account(new, "limits", "concurrency", (3, 4, 9)[seed % 3]),
    "resend": lambda new, seed: new["run"].update(on_unknown=("hold", "resend")[seed % 2]),
    "other price": lambda new, seed: _each_account(new, "prices", "default", (0.01, 0.05)[seed % 2]),
}


def edited(manifest: dict[str, Any], what: str, seed: int) -> dict[str, Any]:
    """The manifest after an edit."""
    new = deepcopy(manifest)
    EDITS[what](new, seed)
    return new


# --- what happens -----------------------------------------------------------------------------------------------

_MOVES = (  # each is a method of `Life`, and is drawn as often as it is named
    *("edit",) * 8,
    *("wait",) * 4,
    *("delete files", "damage a file", "return files") * 2,
    *("set a key",) * 4,
    *("keep the ledger", "restore the ledger", "look", "adopt") * 2,
    *("delete all images", "delete a view", "copy the output", "other output", "rehearse", "ask", "set the clock"),
)
_SECONDS = {"wait": (600.0, 7200.0, 90_000.0, 400_000.0), "set the clock": (-90_000.0, -3600.0, 7200.0, 200_000.0)}


def _move(rng: Random, number: int) -> Step:
    """Something that the user does; `seed` is for what the move itself has to choose."""
    does = rng.choice(_MOVES)
    given: dict[str, Any] = {"seed": rng.randrange(1000)}
    if does == "edit":
        given["what"] = rng.choice(list(EDITS))
    if does in _SECONDS:
        given["seconds"] = rng.choice(_SECONDS[does])
    return Step(number=number, does=does, given=given)


_FILTERS = ("model=kling-v1", "aspect_ratio=1:1", "prompt=*number 1*", "model=picture-1")
_OPTIONS: dict[str, tuple[float, tuple[Any, ...]]] = {
    "only": (0.15, tuple([each] for each in _FILTERS)),
    "limit": (0.15, (1, 3, 10)),
    "max_cost": (0.15, (0.02, 0.1)),
    "deadline": (0.1, (0.0, 5.0, 60.0, 600.0)),
    "retry_failed": (0.2, (True,)),
    "retry_unknown": (0.12, (True,)),
    "refetch": (0.1, (True,)),
}
_WINDOWS = ("refused", "page", "silent", "creates", "creates", "words", "queries", "money", "key", "images")


def _run(rng: Random) -> dict[str, Any]:
    """The options of a run, and what befalls it."""
    options = {name: rng.choice(values) for name, (share, values) in _OPTIONS.items() if rng.random() < share}
    befalls: dict[str, Any] = {"options": options}

    def step(most: float) -> int:
        return int(10 ** rng.uniform(0.3, most))

    end = rng.random()
    if end < 0.25:
        befalls["killed at step"] = step(3.3)
    elif end < 0.45:
        befalls["killed at point"] = step(2.2)
    elif end < 0.52:
        befalls["power cut at step"] = step(3.3)
    elif end < 0.6:
        befalls["interrupted at step"] = [step(3.3) for _ in range(rng.choice((1, 1, 2)))]
    if rng.random() < 0.08:
        befalls["suspended at step"] = (step(3), rng.choice((3.0, 70.0, 40_000.0)), rng.random() < 0.5)
    if rng.random() < 0.06:
        befalls["clock set at step"] = (step(3), rng.choice((-90_000.0, -60.0, 4000.0, 90_000.0)))
    if rng.random() < 0.1:
        befalls["disk full at step"] = step(3)
    if rng.random() < 0.2:
        after, lasts = rng.choice((0.0, 3.0, 30.0)), rng.choice((10.0, 120.0, 90_000.0))
        befalls["window"] = (rng.choice(("one", "two")), rng.choice(_WINDOWS), after, lasts)
    return befalls
