"""A definition of an API, compiled: its requests as templates, and the selectors that read its answers.

What a definition says of an account (models, limits, sizes, prices) is read as that of the catalogue's accounts.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from batchgen.apis.values import Template

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from batchgen.apis.hosts import Hosts
    from batchgen.apis.selectors import Selector

_PARTS = {"attempt": ("id", "seed", "uuid"), "image": ("url", "b64", "data_uri", "file", "uploaded")}
DOTTED = {f"{whole}_{part}": f"{whole}.{part}" for whole, parts in _PARTS.items() for part in parts}
OF_ATTEMPT = frozenset(name for name in DOTTED if name.startswith("attempt"))
OF_IMAGE = frozenset(DOTTED) - OF_ATTEMPT
FILES = frozenset({"file", "image_file"})  # values that only a form can hold, each as a whole part
TOKEN_LASTS = 300.0  # seconds, of a command that does not say; one that has gone bad is renewed anyway
_SIZED = frozenset({"width", "height"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Images:
    """Where an answer has its images: `kind` is url, b64, body or link; a link is made by `link` of each found."""

    kind: str
    selector: Selector | None = None
    media_type: str = ""
    link: Template | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One request, and the selectors that read its answer."""

    name: str
    method: str
    address: Template
    query: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, Any] = field(default_factory=dict)
    body: Any = None
    is_form: bool = False
    fine: Selector | None = None
    selectors: Mapping[str, Selector] = field(default_factory=dict)
    images: Images | None = None
    states: Mapping[str, str] = field(default_factory=dict)  # our word, by the API's in small letters
    next_url: Selector | None = None
    next_query: tuple[str, Selector] | None = None
    alternative: Step | None = None

    @property
    def names(self) -> set[str]:
        """The values that the request holds."""
        of_address = {name.removesuffix("_path") for name in self.address.names}
        return of_address | names_in((self.query, self.headers, self.body))

    @property
    def misplaced_files(self) -> frozenset[str]:
        """Files that are not the whole value of a part of a form."""
        body = self.body
        if self.is_form:
            body = [part for part in body.values() if not (isinstance(part, Template) and part.name in FILES)]
        return FILES & names_in((self.address, self.query, self.headers, body))

    @property
    def begins_with_task(self) -> bool:
        """Whether the task itself is the address."""
        return self.address.source.lstrip().startswith("{{") and "task" in self.address.names

    @property
    def is_large(self) -> bool:
        """Whether the answer holds images."""
        return self.images is not None and self.images.kind in {"b64", "body"}

    def is_blocked(self, body: Any) -> bool:  # noqa: ANN401 - any value of JSON
        """Whether the answer says why there are no images."""
        return "blocked" in self.selectors and self.selectors["blocked"].holds(body)

    def state(self, body: Any) -> tuple[str, str]:  # noqa: ANN401 - any value of JSON
        """Our word for the state and the API's own; an unknown one is running, none is two empty texts."""
        word = self.selectors["state"].word(body) if "state" in self.selectors else ""
        return (self.states.get(word.lower(), "running"), word) if word else ("", "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One row of `errors`; no statuses means any below 500, no steps means every one."""

    statuses: frozenset[int]
    when: Selector | None
    means: str
    steps: frozenset[str] = frozenset()

    def fits(self, step: str, status: int, body: Any) -> bool:  # noqa: ANN401 - any value of JSON
        """Whether an answer is meant. One that is no JSON is a proxy's, and a 5xx says nothing unless it is named."""
        is_meant = status in self.statuses if self.statuses else status < 500 and status != 408
        is_asked = not self.steps or step in self.steps
        is_own = isinstance(body, dict | list)
        return is_meant and is_asked and is_own and (self.when is None or self.when.holds(body))


@dataclass(frozen=True, slots=True, kw_only=True)
class Callback:
    """Where the body of a callback names the task, as `create` does, and its state in a word of `query`."""

    task: Selector
    state: Selector | None

    def read(self, body: Any, query: Step | None) -> dict[str, str]:  # noqa: ANN401 - any value of JSON
        """The task, and our word for its state: done without a word for it, running for one that is not known."""
        state = "done"
        if self.state is not None and query is not None:
            state = query.states.get(self.state.word(body).lower(), "running")
        return {"task": self.task.word(body), "state": state}


@dataclass(frozen=True, slots=True, kw_only=True)
class Definition:
    """The compiled steps of an API."""

    hosts: Hosts
    header: str
    prefix: str
    steps: Mapping[str, Step]
    rows: tuple[Row, ...]
    mark: Template | None
    words: Mapping[str, Mapping[str, str]]
    callback: Callback | None
    command: tuple[str, ...] = ()  # prints the key
    token_lasts: float = TOKEN_LASTS  # seconds
    signer: str = ""  # an entry point
    signer_keys: Mapping[str, str] = field(default_factory=dict)  # variables of the environment, by the signer's names

    def means(self, step: Step, status: int, body: Any) -> str:  # noqa: ANN401 - any value of JSON
        """What the first row that fits says; empty where none does."""
        return next((row.means for row in self.rows if row.fits(step.name, status, body)), "")

    @property
    def can_find(self) -> bool:
        """Whether a task can be asked for by an id of ours."""
        return "find" in self.steps

    @property
    def looks_by_model(self) -> bool:
        """Whether a question what became of a create names its model."""
        asking = [self.steps[name] for name in ("find", "list") if name in self.steps]
        asking += [step.alternative for step in asking if step.alternative is not None]
        return any("model" in step.names for step in asking)

    @property
    def can_list(self) -> bool:
        """Whether a list of tasks repeats a mark of ours."""
        return "list" in self.steps and self.mark is not None

    @property
    def image_values(self) -> frozenset[str]:
        """The forms of a reference image that its create sends."""
        return frozenset(self.steps["create"].names & OF_IMAGE)

    @property
    def marks(self) -> frozenset[str]:
        """The values of an attempt by which `find` and `list` know a task of ours."""
        found: Step | None = self.steps.get("find")
        names = self.mark.names if self.mark is not None else frozenset()
        while found is not None:
            names = names | (found.names & OF_ATTEMPT)
            found = found.alternative
        return frozenset(names)

    @property
    def in_place_of_marks(self) -> frozenset[str]:
        """What its create may send in place of a mark: the other names in the templates that hold one."""
        create = self.steps["create"]
        templates = templates_in((create.address, create.query, create.headers, create.body))
        return frozenset().union(*(each.names for each in templates if each.names & self.marks)) - OF_ATTEMPT

    @property
    def fields(self) -> frozenset[str]:
        """The parameters that its create can send."""
        create = self.steps["create"]
        names = create.names
        known = {"image" if name in OF_IMAGE else name for name in names} - OF_ATTEMPT - _SIZED
        return frozenset(known | ({"aspect_ratio", "resolution"} if names & _SIZED else set()))


def names_in(node: Any) -> set[str]:  # noqa: ANN401 - a tree of templates
    """The names in a tree of templates."""
    return {name for template in templates_in(node) for name in template.names}


def templates_in(node: Any) -> Iterator[Template]:  # noqa: ANN401 - a tree of templates
    """The templates in a tree of lists and mappings."""
    if isinstance(node, Template):
        yield node
    elif isinstance(node, dict | list | tuple):
        for child in node.values() if isinstance(node, dict) else node:
            yield from templates_in(child)
