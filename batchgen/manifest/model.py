"""The values of a manifest: frozen, typed, each with its path in the file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any, TypeAlias

from batchgen.jobs import PARAMETER_NAMES, Parameters

if TYPE_CHECKING:
    from decimal import Decimal
    from pathlib import Path

    from batchgen.catalog.accounts import Account
    from batchgen.catalog.pool import Pool
    from batchgen.errors import Diagnostic, SourceLocation
    from batchgen.jobs import Job
    from batchgen.shards import Shard
    from batchgen.storage.paths import PathTemplate

_OWN = frozenset(PARAMETER_NAMES)

NodePath: TypeAlias = tuple[str | int, ...]


class OnUnknown(StrEnum):
    """What to do with a task that may have been accepted, where the gateway cannot be queried."""

    HOLD = "hold"
    RESEND = "resend"  # it may be paid twice


class OnIllegal(StrEnum):
    """What to do with a combination that the model or the account does not support."""

    ERROR = "error"
    SKIP = "skip"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """Time limits, attempts and parallel downloads of a run; durations are seconds. The defaults: `spec.yaml`."""

    max_attempts: int
    task_timeout: float | None  # None: no limit
    on_unknown: OnUnknown
    give_up_after: float  # without any success, while the gateway refuses or cannot be reached
    grace: float  # for what is in flight, after an interruption
    downloads: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What all runs of one output may spend together; None: no limit."""

    max_images: int | None = None
    max_cost: Decimal | None = None  # in the unit of the account's prices


@dataclass(frozen=True, slots=True, kw_only=True)
class Callback:
    """Where the gateway sends callbacks, and where to listen for them."""

    public_url: str
    host: str
    port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageCheck:
    """An automatic reviewer of images: a command that answers each line of JSON with one."""

    name: str
    version: str
    command: tuple[str, ...]
    folder: Path  # where it is started
    timeout: float  # seconds, for one image
    processes: int

    @property
    def reviewer(self) -> str:
        """Under which its verdicts are kept."""
        return f"{self.name}@{self.version}"


@dataclass(frozen=True, slots=True, kw_only=True)
class OnReject:
    """Within which bounds what a check rejects is made anew, over all runs of an output."""

    attempts: int  # of each job
    max_images: int
    stop_above: float  # share of rejections from which on a check is not believed


@dataclass(frozen=True, slots=True)
class Setting:
    """A parameter's value and where it was set."""

    value: Any
    path: NodePath


Settings: TypeAlias = Mapping[str, Setting]
Labels: TypeAlias = Mapping[str, str]
RowLabels: TypeAlias = tuple[tuple[str, ...], tuple[str, ...]]  # names and values; equal rows share one


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One entry of an axis. Of a parameter's axis, `settings` holds its own value too."""

    id: str | None = None
    settings: Settings = field(default_factory=dict)
    path: NodePath
    values: Mapping[str, str] = field(default_factory=dict)  # of vars, as they go into prompts
    labels: Labels = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """A parameter, a var or (`zip`) several of them together, with its entries."""

    name: str
    entries: tuple[Entry, ...]
    path: NodePath
    vars: tuple[str, ...] = ()  # that each entry gives a value
    is_zip: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompts:
    """Prompts from one place: consecutive plain texts, one entry, or the rows of a file.

    For a template that a table fills (`rows`), `texts` has the template once for each row, and `cells` the columns that
    it uses of each row.
    """

    texts: Sequence[str]
    ids: Sequence[str | None] | None = None  # None: no prompt has an id of its own
    settings: Settings = field(default_factory=dict)  # of every prompt here
    row_settings: Mapping[int, Settings] = field(default_factory=dict)  # of single ones, besides
    path: NodePath  # of the list, or of the entry that names the file
    numbers: Sequence[int] | None = None  # in the list
    file: str | None = None
    lines: Sequence[int] | None = None  # in `file`
    columns: tuple[str, ...] = ()  # that the template uses
    cells: Sequence[tuple[str, ...]] = ()
    header: tuple[str, ...] = ()  # every column of the table
    labels: Labels = field(default_factory=dict)  # of every prompt here
    row_labels: Sequence[RowLabels] = ()  # of each prompt, besides; empty: none has any

    def settings_of(self, number: int) -> Settings:
        """What the prompt's own entry sets."""
        extra = self.row_settings.get(number)
        return {**self.settings, **extra} if extra else self.settings

    def id_of(self, number: int) -> str | None:
        """The prompt's own id, if it has one."""
        return self.ids[number] if self.ids is not None else None

    @property
    def label_names(self) -> frozenset[str]:
        """Every label that a prompt here has."""
        return frozenset(self.labels).union(*{names for names, _ in self.row_labels})

    def labels_of(self, number: int) -> Labels:
        """The prompt's labels."""
        if not self.row_labels:
            return self.labels
        return {**self.labels, **dict(zip(*self.row_labels[number], strict=True))}

    def values_of(self, number: int) -> dict[str, str]:
        """The values of a table's row for its template."""
        return dict(zip(self.columns, self.cells[number], strict=True)) if self.columns else {}

    def path_of(self, number: int) -> NodePath:
        """The prompt's path in the manifest."""
        return self.path if self.numbers is None else (*self.path, self.numbers[number])


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """A number of jobs of a block: those that rank lowest (see `batchgen.matrix.sample`)."""

    count: int
    seed: int = 0
    by: str | None = None  # of each value of this label or parameter the same number, as far as there are
    bounds: Mapping[str, int] | None = None  # by value the highest rank that is in; None: not computed, or all are in

    def takes(self, job: Job, rank: int) -> bool:
        """Whether a job of this rank is in the sample."""
        return self.bounds is None or rank <= self.bounds.get(self.value_of(job), -1)

    def value_of(self, job: Job) -> str:
        """The value that the job is counted under; one for all without `by`."""
        return "" if self.by is None else job.text_of(self.by)


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Axes whose every combination is a job; of `include`, a single job."""

    prompts: tuple[Prompts, ...]
    vars: tuple[Axis, ...]
    axes: tuple[Axis, ...] = ()  # in the order written
    exclude: tuple[Exclusion, ...] = ()  # that apply to it
    path: NodePath
    name: str | None = None
    sample: Sample | None = None
    labels: Labels = field(default_factory=dict)  # of all its jobs

    @property
    def var_names(self) -> frozenset[str]:
        """Every var that its prompts may use."""
        return frozenset(name for axis in self.vars for name in axis.vars)

    @property
    def placeholders(self) -> frozenset[str]:
        """The names that its jobs have beside the fixed ones, for paths and for `--only`."""
        named = {"block"} if self.name is not None else set()
        zipped = (axis for axis in (*self.vars, *self.axes) if axis.is_zip)
        named |= {"zip" for axis in zipped if any(entry.id is not None for entry in axis.entries)}
        return self.var_names | named | self.label_names

    @property
    def label_names(self) -> frozenset[str]:
        """Every label that a source or an entry gives to its jobs."""
        entries = (entry for axis in (*self.vars, *self.axes) for entry in axis.entries if entry.labels)
        return frozenset(self.labels).union(
            *(group.label_names for group in self.prompts), *(entry.labels for entry in entries)
        )

    @property
    def axis_labels(self) -> frozenset[str]:
        """Those of its labels that depend on parameters alone, not on prompt and vars."""
        entries = [(axis, entry) for axis in self.axes for entry in axis.entries]
        own = frozenset(name for _, entry in entries for name in entry.labels)
        return own | {axis.name for axis, entry in entries if axis.is_zip and entry.id is not None}

    def factors(self) -> list[tuple[str, int]]:
        """How many entries each axis has, prompts first."""
        sizes = [("prompt", sum(len(group.texts) for group in self.prompts))]
        return sizes + [(axis.name, len(axis.entries)) for axis in (*self.vars, *self.axes)]


@dataclass(frozen=True, slots=True)
class Match:
    """A value of an exclusion: the text as written, in which `*` and `?` are wildcards, and the value."""

    text: str
    value: Any
    number: int | None = None  # in a list


@dataclass(frozen=True, slots=True, kw_only=True)
class Exclusion:
    """A job is left out when every key matches; of a key's matches, any."""

    texts: Mapping[str, tuple[Match, ...]]  # of `prompt`, `prompt_id`, vars and labels
    parameters: Mapping[str, tuple[Match, ...]]
    path: NodePath


@dataclass(frozen=True, slots=True, kw_only=True)
class Skipped:
    """Combinations that `on_illegal: skip` leaves out for one reason."""

    reason: str
    jobs: int
    example: Mapping[str, str]  # the parameters of one of them that break the rule
    places: tuple[SourceLocation, ...]  # where those were set


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """A manifest; once `load_manifest` returns it, everything in it has been checked."""

    path: Path
    name: str
    provider: str  # the key of the account that is used
    account: Account  # that is used; of a pool the first, whose defaults of parameters hold
    pool: Pool  # every account that makes new images
    accounts: Mapping[str, Account]  # by name, the built-in ones and the manifest's
    rule_accounts: tuple[Account, ...]  # whose rules apply; others when a manifest is rehearsed in the sandbox
    asked: frozenset[str] = frozenset()  # parameters that it sets anywhere: every account of a pool must know them
    output_path: PathTemplate
    spreadsheet_safe: bool
    metadata: bool = False  # whether metadata.csv is written
    defaults: Settings
    blocks: tuple[Block, ...]
    exclude: tuple[Exclusion, ...]
    include: tuple[Block, ...]
    repeat: int
    max_jobs: int
    budget: Budget = field(default_factory=Budget)
    run: RunOptions
    on_illegal: OnIllegal = OnIllegal.ERROR
    callback: Callback | None = None
    checks: tuple[ImageCheck, ...] = ()
    on_reject: OnReject | None = None  # None: it is marked, and that is all
    on_finish: tuple[str, ...] | str | None = None  # a command as its words, or the URL of a webhook
    warnings: tuple[Diagnostic, ...] = ()
    skipped: tuple[Skipped, ...] = ()  # by `on_illegal: skip`, before any sample; at most a few dozen reasons
    further_names: tuple[str, ...] = ()  # parameters beyond batchgen's own that it gives, in order
    digest: str = ""  # same digest: same jobs in the same order, and the same paths
    shard: Shard | None = None  # of its jobs, the part that is asked for; None: all of them

    def of_shard(self, shard: Shard | None) -> Manifest:
        """The manifest, asking for the jobs of a shard alone."""
        return self if shard is None else replace(self, shard=shard, digest=f"{self.digest} {shard}")

    @property
    def var_names(self) -> tuple[str, ...]:
        """Every variable and every label that a job of it may have."""
        return tuple(sorted({name for block in (*self.blocks, *self.include) for name in block.placeholders}))

    @property
    def selectable(self) -> tuple[str, ...]:
        """The keys of `--only` that are this manifest's own."""
        return (*self.var_names, *self.further_names)


def build(settings: Settings) -> Parameters:
    """The parameters of settings; null removes a default, so that the API's own applies."""
    given = {name: setting.value for name, setting in settings.items() if setting.value is not None}
    further = tuple((name, given.pop(name)) for name in sorted(given.keys() - _OWN))
    return Parameters(**given, further=further)
