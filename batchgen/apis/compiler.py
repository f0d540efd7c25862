"""Reads definitions: compiles their steps, or says every fault of them with its path."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import urlsplit

from batchgen.apis import selectors, values
from batchgen.apis.consistency import contradictions, doubts
from batchgen.apis.definition import DOTTED, OF_ATTEMPT, OF_IMAGE, TOKEN_LASTS, Callback, Definition, Images, Row, Step
from batchgen.apis.hosts import Hosts
from batchgen.apis.selectors import SelectorInvalid
from batchgen.templates import TemplateInvalid

if TYPE_CHECKING:
    from collections.abc import Mapping

    from batchgen.apis.selectors import Selector
    from batchgen.apis.values import Template

Path: TypeAlias = tuple[str | int, ...]
Raw: TypeAlias = Any  # what YAML can hold

VERSION = 1
OF_ACCOUNT = frozenset(
    {"about", "base_url", "models", "limits", "prices", "sizes", "defaults", "aspect_ratios", "resolutions"}
    | {"parameters"}
    | {"visibility_delay", "request_timeout"}
)
STEPS = ("create", "query", "result", "find", "list", "upload", "probe")
_OWN = frozenset(
    {"api", "hosts", "auth", "remembers", "link_ttl", "free", "fixed", "words", "mark", "errors", "examples"}
)
KNOWN = OF_ACCOUNT | _OWN | {*STEPS, "callback", "sources", "read"}
_METHODS = {"get": "GET", "post": "POST", "put": "PUT"}
_REQUEST = frozenset({*_METHODS, "query", "headers", "json", "form", "fine"})
_SELECTORS: Mapping[str, frozenset[str]] = {
    "create": frozenset({"task", "mark", "cost", "blocked", "message"}),
    "query": frozenset({"state", "blocked", "message", "cost"}),
    "result": frozenset({"blocked", "message", "cost"}),
    "find": frozenset({"task", "mark", "state", "missing", "items"}),
    "list": frozenset({"items", "mark", "task", "state", "created"}),
    "upload": frozenset({"give"}),
    "probe": frozenset({"balance"}),
}
_MORE: Mapping[str, frozenset[str]] = {
    "create": frozenset({"images"}),
    "query": frozenset({"images", "states"}),
    "result": frozenset({"images"}),
    "find": frozenset({"or"}),
    "list": frozenset({"next"}),
    "upload": frozenset(),
    "probe": frozenset(),
}
_NEEDED: Mapping[str, tuple[str, ...]] = {
    "query": ("state", "states"),
    "find": ("task",),
    "list": ("items", "mark", "task"),
    "upload": ("give",),
}
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
_AUTHS = {  # by the key that tells them apart
    "command": frozenset({"command", "for", "header", "prefix"}),
    "sign": frozenset({"sign", "env"}),
    "env": frozenset({"env", "header", "prefix"}),
}
_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_OWN_HEADERS = frozenset({"authorization", "host", "content-length", "content-type", "transfer-encoding", "connection"})
_SECRET = re.compile(r"auth|cookie|key|password|secret|token", re.IGNORECASE)
STATES = ("running", "done", "failed", "rejected", "missing")
MEANS = ("account", "slower", "busy", "rejected", "refused", "again", "missing", "taken", "unclear")
NOTHING_MADE = frozenset({"account", "slower", "busy", "rejected", "refused", "again"})  # claims, of a create
_OF_JOB = OF_IMAGE | {
    *("prompt", "negative_prompt", "model", "n", "aspect_ratio", "resolution", "width", "height"),
    *("image_fidelity", "callback_url"),
}
OF_CREATE = _OF_JOB | OF_ATTEMPT  # the values that batchgen gives to a create
_NAMES = {
    "create": OF_CREATE,
    "query": frozenset({"task"}),
    "result": frozenset({"task"}),
    "find": OF_ATTEMPT | {"model"},
    "list": frozenset({"models", "model", "sent_at"}),
    "upload": frozenset({"file", "image_b64", "image_data_uri"}),
    "probe": frozenset({"models"}),
    "mark": OF_ATTEMPT,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What is wrong at a path of a definition."""

    path: Path
    message: str
    hint: str = ""
    wrong: str = ""  # a word that is none of `known`, for a hint that names the nearest
    known: tuple[str, ...] = ()
    key: bool = False
    warning: bool = False


def definition_of(raw: Mapping[str, Raw]) -> Definition:
    """The compiled definition. Raises ValueError for one that has faults."""
    definition, faults = compiled(raw)
    if definition is None:
        raise ValueError(next(f"{fault.path}: {fault.message}" for fault in faults if not fault.warning))
    return definition


def compiled(raw: Mapping[str, Raw]) -> tuple[Definition | None, list[Fault]]:
    """The definition, or None where it has faults; and those, with warnings."""
    compiler = _Compiler(raw)
    definition = compiler.definition()
    return (None if any(not fault.warning for fault in compiler.faults) else definition), compiler.faults


class _Compiler:
    """Reads one definition, and collects what is wrong with it."""

    def __init__(self, raw: Mapping[str, Raw]) -> None:
        self.raw = raw
        self.faults: list[Fault] = []
        declared = raw.get("parameters")
        self.parameters = frozenset(map(str, declared)) if isinstance(declared, dict) else frozenset()
        self.hosts = Hosts(str(raw.get("base_url", "")), [str(host) for host in _list(raw.get("hosts"))])

    def fault(self, path: Path, message: str, hint: str = "", *, key: bool = False, warning: bool = False) -> None:
        self.faults.append(Fault(path=path, message=message, hint=hint, key=key, warning=warning))

    def definition(self) -> Definition | None:
        if self.raw.get("api") != VERSION:
            self.fault(("api",), "This is not a version of definitions.", "Write `api: 1`.")
        self.known((), self.raw, KNOWN)
        for key in ("base_url", "models", "create"):
            if key not in self.raw:
                self.fault((), f"The key `{key}` is missing.", f"Add `{key}: …`.")
        steps = {name: step for name in STEPS if name in self.raw and (step := self.step(name, (name,)))}
        mark = self.template(self.raw["mark"], ("mark",), "mark") if "mark" in self.raw else None
        rows = tuple(
            filter(None, (self.row(row, ("errors", n)) for n, row in enumerate(_list(self.raw.get("errors")))))
        )
        auth = self.auth()
        if auth["header"] and self.hosts.is_open:
            message = "The key would be sent without encryption."
            self.fault(("base_url",), message, "Write https://…, if the API has that address.", warning=True)
        if "create" not in steps:
            return None
        if "query" in steps:
            for name in {"find", "list"} & set(steps):
                steps[name] = replace(steps[name], states=steps["query"].states)
        wrong = {fault.path[:1] for fault in self.faults}
        for path, message, hint in contradictions(steps, mark):
            if path not in wrong:  # what is missing there may be what could not be read
                self.fault(path, message, hint, key=True)
        for path, message, hint in doubts(steps["create"], rows, is_called="callback" in self.raw):
            self.fault(path, message, hint, warning=True)
        for name in sorted(self.parameters - steps["create"].names):
            hint = f'Put it there, as in `{name}: "{{{{ {name} }}}}"`.'
            self.fault(("parameters", name), f"`create` does not send the parameter `{name}`.", hint, key=True)
        return Definition(
            hosts=self.hosts,
            **auth,
            steps=steps,
            rows=rows,
            mark=mark,
            words=self.raw.get("words") or {},
            callback=self.callback(steps) if "callback" in self.raw else None,
        )

    def callback(self, steps: Mapping[str, Step]) -> Callback | None:
        raw, path = self.raw["callback"], ("callback",)
        if not isinstance(raw, dict):
            self.fault(path, "A callback is a mapping.", "As in `{task: id, state: status}`.")
            return None
        self.known(path, raw, {"task", "state"})
        if "query" not in steps:
            self.fault(path, "A callback is believed only when a query confirms it.", "Add `query: …`.")
        task = self.selector(raw.get("task"), (*path, "task"))
        state = self.selector(raw["state"], (*path, "state")) if "state" in raw else None
        return Callback(task=task, state=state) if task is not None else None

    # --- parts --------------------------------------------------------------------------------------------

    def known(self, path: Path, mapping: Mapping[str, Raw], known: frozenset[str] | set[str]) -> None:
        for key in mapping:
            if key not in known:
                message = f"Unknown key `{str(key)[:60]}`."
                found = Fault(path=(*path, key), message=message, wrong=str(key), known=tuple(sorted(known)), key=True)
                self.faults.append(found)

    def selector(self, text: Raw, path: Path) -> Selector | None:
        if not isinstance(text, str):
            self.fault(path, "A selector is a text in JMESPath.", "As in `data[0].url`.")
            return None
        try:
            return selectors.read(text)
        except SelectorInvalid as error:
            self.fault(path, str(error), "See jmespath.org.")
            return None

    def template(self, text: Raw, path: Path, part: str, *, address: bool = False) -> Template | None:
        try:
            template = values.read(str(text), address=address)
        except TemplateInvalid as error:
            self.fault(path, str(error))
            return None
        allowed = _NAMES[part] | (self.parameters if part == "create" else frozenset())
        for name in sorted(template.names):
            if (name.removesuffix("_path") if address else name) not in allowed:
                message = f"There is no value `{DOTTED.get(name, name)}` in `{part}`."
                known = tuple(sorted(DOTTED.get(each, each) for each in allowed))
                self.faults.append(Fault(path=path, message=message, wrong=DOTTED.get(name, name), known=known))
        return template

    def node(self, raw: Raw, path: Path, part: str) -> Any:  # noqa: ANN401 - a tree of templates
        if isinstance(raw, dict):
            return {str(name): self.node(child, (*path, name), part) for name, child in raw.items()}
        if isinstance(raw, list):
            return [self.node(child, (*path, number), part) for number, child in enumerate(raw)]
        if isinstance(raw, str) and ("{{" in raw or "{%" in raw):
            return self.template(raw, path, part)
        return raw

    def step(self, name: str, path: Path) -> Step | None:
        raw = self.raw
        for key in path:
            raw = raw[key]  # type: ignore[index]
        if not isinstance(raw, dict):
            self.fault(path, "A step is a mapping.", "As in `{get: /v1/tasks/{{ task }}}`.")
            return None
        readers = _SELECTORS[name]
        self.known(path, raw, _REQUEST | readers | _MORE[name])
        methods = [key for key in _METHODS if key in raw]
        if len(methods) != 1:
            self.fault(path, "A step has one of get, post and put.", "As in `get: /v1/tasks/{{ task }}`.")
            return None
        bodies = [key for key in ("json", "form") if key in raw]
        if len(bodies) > 1 or (bodies and methods == ["get"]):
            self.fault((*path, bodies[-1]), "A step sends `json` or `form`, and a get neither.", key=True)
        if (address := self.address(raw[methods[0]], (*path, methods[0]), name)) is None:
            return None
        for key in ("query", "headers") if bodies != ["form"] else ("query", "headers", "form"):
            if not isinstance(raw.get(key, {}), dict):
                self.fault((*path, key), "This is a mapping of names and values.")
                return None
        self.check_headers(raw.get("headers", {}), (*path, "headers"))
        for key in _NEEDED.get(name, ()) if "or" not in path else ():
            if key not in raw:
                self.fault(path, f"The key `{key}` is missing.", f"Add `{key}: …`.")
        following = raw["next"] if isinstance(raw.get("next"), dict) else {}
        self.known((*path, "next"), following, {"url", "query", "from"})
        url, cursor = following.get("url"), following.get("from")
        next_from = self.selector(cursor, (*path, "next", "from")) if cursor is not None else None
        return Step(
            name=name,
            method=_METHODS[methods[0]],
            address=address,
            query=self.node(raw.get("query", {}), (*path, "query"), name),
            headers=self.node(raw.get("headers", {}), (*path, "headers"), name),
            body=self.node(raw[bodies[0]], (*path, bodies[0]), name) if bodies else None,
            is_form=bodies == ["form"],
            fine=self.selector(raw["fine"], (*path, "fine")) if "fine" in raw else None,
            selectors={
                key: found for key in readers if key in raw and (found := self.selector(raw[key], (*path, key)))
            },
            images=self.images(raw["images"], (*path, "images"), name) if "images" in raw else None,
            states=self.states(raw["states"], (*path, "states")) if "states" in raw else {},
            next_url=self.selector(url, (*path, "next", "url")) if url is not None else None,
            next_query=(str(following.get("query", "cursor")), next_from) if next_from else None,
            alternative=self.step(name, (*path, "or")) if "or" in raw else None,
        )

    def check_headers(self, headers: Mapping[str, Raw], path: Path) -> None:
        for header in headers:
            if not _HEADER.fullmatch(str(header)) or str(header).lower() in _OWN_HEADERS:
                hint = "The key goes where `auth` says."
                self.fault((*path, header), "This header is set by batchgen, or is no name.", hint, key=True)
            elif _SECRET.search(str(header)):
                hint = "Put it into the variable that `auth` names."
                self.fault((*path, header), "A key is never written into a definition.", hint, key=True)

    def address(self, text: Raw, path: Path, part: str) -> Template | None:
        written = str(text)
        template = self.template(written, path, part, address=True)
        is_task = written.lstrip().startswith("{{") and part in {"query", "result"}
        if not (written.startswith("/") or is_task or self.hosts.allow(written.partition("{{")[0])):
            host = urlsplit(written.partition("{{")[0]).netloc
            hint = f"Add `hosts: [{host}]`." if host else "Write /v1/…, or `{{ task }}` where that is an address."
            self.fault(path, "This address is at no host that the key may be sent to.", hint)
        return template

    def images(self, raw: Raw, path: Path, part: str) -> Images | None:
        keys = set(raw) if isinstance(raw, dict) else set()
        if keys == {"each", "link"}:
            link = self.link(str(raw["link"]), (*path, "link"))
            return Images(kind="link", selector=self.selector(raw["each"], (*path, "each")), link=link)
        if len(keys) != 1 or not keys <= {"url", "b64", "body"} or part not in {"create", "query", "result"}:
            hint = "Write {url: S}, {b64: S}, {body: image/*}, or {each: S, link: /view?name={{ name }}}."
            self.fault(path, "This does not say where the images are.", hint)
            return None
        kind = keys.pop()
        if kind == "body":
            return Images(kind=kind, media_type=str(raw[kind]))
        return Images(kind=kind, selector=self.selector(raw[kind], (*path, kind)))

    def link(self, text: str, path: Path) -> Template | None:
        try:
            return values.read(text, address=True)
        except TemplateInvalid as error:
            self.fault(path, str(error))
            return None

    def states(self, raw: Raw, path: Path) -> Mapping[str, str]:
        if not isinstance(raw, dict):
            self.fault(path, "This is a mapping of our states to the API's words.", "As in `{done: [Ready]}`.")
            return {}
        self.known(path, raw, set(STATES))
        if "done" not in raw:
            self.fault(path, "It does not say which state has the images.", "Add `done: [WORD]`.")
        return {str(word).lower(): state for state, words in raw.items() for word in _list(words)}

    def row(self, raw: Raw, path: Path) -> Row | None:
        if not isinstance(raw, dict) or raw.get("means") not in MEANS or not {"status", "when"} & set(raw):
            self.fault(path, "A row of errors has `status` or `when`, and `means`.", f"`means` is {', '.join(MEANS)}.")
            return None
        self.known(path, raw, {"step", "status", "when", "means"})
        statuses = frozenset(status for status in _list(raw.get("status")) if isinstance(status, int))
        if len(statuses) != len(_list(raw.get("status"))):
            self.fault((*path, "status"), "A status is a number, or a list of numbers.")
        steps = frozenset(map(str, _list(raw.get("step"))))
        if unknown := sorted(steps - set(STEPS)):
            self.fault((*path, "step"), f"There is no step `{unknown[0]}`.", f"There are {', '.join(STEPS)}.")
        claims = NOTHING_MADE if not steps or "create" in steps else frozenset()
        if raw["means"] in claims | {"missing"} and any(status >= 500 or status == 408 for status in statuses):
            message = "This says that there is nothing although the server failed: what it did make would be paid"
            self.fault(path, f"{message} again.", "Leave such answers out; they are unclear.", warning=True)
        if "when" not in raw and any(200 <= status < 300 for status in statuses):
            self.fault(path, "An answer with this status is a yes.", "Say which one is an error: `when: …`.")
        when = self.selector(raw["when"], (*path, "when")) if "when" in raw else None
        if "when" in raw and when is None:
            return None
        return Row(statuses=statuses, when=when, means=raw["means"], steps=steps)

    def auth(self) -> dict[str, Any]:
        """The fields of a definition that say how a request shows whose it is."""
        raw: Raw = self.raw.get("auth")
        if raw == {}:
            return {"header": "", "prefix": ""}
        kind = next((key for key in _AUTHS if key in raw), "") if isinstance(raw, dict) else ""
        env = raw.get("env", {}) if kind else {}
        variables = list(env.values()) if isinstance(env, dict) else [env]
        is_right = {
            "command": lambda: _is_words(raw["command"]),
            "sign": lambda: isinstance(env, dict) and isinstance(raw["sign"], str),
            "env": lambda: isinstance(env, str),
        }
        if not kind or not is_right[kind]():
            hint = "Write `auth: {env: NAME_OF_THE_VARIABLE}`, or `auth: {}` where no key is needed."
            self.fault(("auth",) if "auth" in self.raw else (), "It does not say where the key is.", hint)
            return {"header": "", "prefix": ""}
        self.known(("auth",), raw, _AUTHS[kind])
        if not all(_VARIABLE.fullmatch(str(each)) for each in variables):  # not at its place: the line would be shown
            self.fault(
                (), "`auth.env` is the name of a variable of the environment, never the key.", "As in MY_API_KEY."
            )
        return {
            "header": str(raw.get("header", "Authorization")),
            "prefix": str(raw.get("prefix", "Bearer " if "header" not in raw else "")),
            "command": tuple(raw.get("command", ())),
            "token_lasts": raw.get("for", TOKEN_LASTS),
            "signer": raw.get("sign", ""),
            "signer_keys": env if kind == "sign" else {},
        }


def _is_words(raw: Raw) -> bool:
    return isinstance(raw, list) and bool(raw) and all(isinstance(word, str) and word for word in raw)


def _list(raw: Raw) -> list[Raw]:
    return [] if raw is None else raw if isinstance(raw, list) else [raw]
