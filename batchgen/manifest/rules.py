"""The rules of a model and an account for the parameters of one job (source: the API's reference)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from batchgen.catalog.load import Model, builtin
from batchgen.jobs import PARAMETER_NAMES
from batchgen.manifest.diagnostics import cut, listed, meant, nearest
from batchgen.manifest.model import Setting
from batchgen.manifest.parameters import faults_of
from batchgen.manifest.reading import outside_bounds

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from batchgen.catalog.accounts import Account
    from batchgen.jobs import Parameters
    from batchgen.manifest.model import Manifest, Settings

_WITH_IMAGE = ("image_reference", "image_fidelity", "human_fidelity")
_DECLARES_NONE = "It has none beyond batchgen's own; `parameters` of an account declares some."
_ALWAYS = frozenset({"model", "aspect_ratio", "resolution", "n"})


@dataclass(frozen=True, slots=True)
class Violation:
    """A rule that is broken, and the parameters that break it together."""

    rule: str
    of: tuple[str, ...]
    message: str
    hint: str = ""
    soft: bool = False  # a known limitation upstream, which a gateway may not have: a warning


def violations(parameters: Parameters, settings: Settings, account: Account, units: int) -> Iterator[Violation]:
    """The hard rules that a job breaks; `units` is the concurrency of the account in force."""
    yield from _of_model(parameters, settings, account)
    yield from _of_size(parameters, settings, account)
    if "image" in account.fields:  # otherwise they are reported below as unknown
        yield from _of_image(parameters)
    for name, setting in settings.items():
        if name not in account.fields and name not in account.parameters and setting.value is not None:
            message = f"The account `{account.name}` does not know `{cut(name)}`."
            hint = "Remove it, or use another account."
            if name not in PARAMETER_NAMES:
                hint = meant(name, account.parameters, allowed="It has") or _DECLARES_NONE
            yield Violation(f"field {name}", (name,), message, hint)
    if parameters.n > units:
        message = f"A task of n {parameters.n} could never start: the account's concurrency is {units}."
        yield Violation("units", ("n",), message, f"Write n: {units} or less, and `repeat` for more images.")


def broken(manifest: Manifest, parameters: Parameters, settings: Settings) -> list[Violation]:
    """The hard rules that a job breaks at the account in force; of several accounts, none where one can make it."""
    accounts = manifest.rule_accounts
    if len(accounts) == 1:
        return list(violations(parameters, settings, accounts[0], manifest.account.concurrency))
    if any(can_make(account, parameters, manifest.asked) for account in accounts):
        return []
    return list(why_not(accounts[0], parameters, manifest.asked))


def can_make(account: Account, parameters: Parameters, asked: Collection[str]) -> bool:
    """Whether an account of a pool can make such a job; `asked`: the parameters that the manifest sets anywhere."""
    return next(why_not(account, parameters, asked), None) is None


def why_not(account: Account, parameters: Parameters, asked: Collection[str]) -> Iterator[Violation]:
    """The rules that such a job breaks at an account of a pool."""
    given = {name: Setting(value, ()) for name in asked if (value := parameters.named(name)) is not None}
    for name in ("n", "aspect_ratio", "resolution"):  # a single account's are reported where the values are read
        if name in given and (problem := outside_bounds(account, name, given[name].value)):
            yield Violation(f"bounds {name}", (name,), *problem)
    for name, value in parameters.further:
        for fault in faults_of(value.value, account.parameters[name]) if name in account.parameters else ():
            yield Violation(f"bounds {name}", (name,), fault.message, fault.hint)
    yield from violations(parameters, given, account, account.concurrency)


def _of_model(parameters: Parameters, settings: Settings, account: Account) -> Iterator[Violation]:
    name = account.own_model(parameters.model)
    if name not in account.models and "model" not in settings:
        message = f'No model is given, and the account `{account.name}` does not have the default, "{name}".'
        hint = f"Write `defaults: {{model: {account.models[0]}}}`, for instance. It has {listed(account.models)}."
        yield Violation("no model", ("model",), message, hint)
    elif name not in account.models:
        guess = nearest(name, account.models)
        hint = f"Did you mean `{guess}`? " if guess else ""
        message = f'The account `{account.name}` has no model "{name[:60]}".'
        yield Violation("model", ("model",), message, f"{hint}It has {listed(account.models)}.")
    elif not _model(name).image_reference:
        if parameters.image_reference is not None:
            able = listed(other for other in account.models if _model(other).image_reference)
            message = f"{name} does not take `image_reference`."
            hint = f"Only {able or 'no model'} does."
            yield Violation("image_reference", ("image_reference", "model"), message, hint)
    elif parameters.image is not None and parameters.image_reference is None:
        message = f"{name} requires `image_reference` with every image."
        yield Violation("no image_reference", ("image", "model"), message, "Add `image_reference: subject` or `face`.")


def _of_size(parameters: Parameters, settings: Settings, account: Account) -> Iterator[Violation]:
    """Where an account requires pixels, it must have a size for the ratio; its lists must have the API's defaults."""
    for name in ("aspect_ratio", "resolution"):
        allowed, value = account.allowed(name), getattr(parameters, name)
        is_given = name in settings and settings[name].value is not None
        if name in account.fields and not is_given and allowed and value not in allowed:
            message = f"No {name} is given, and the account `{account.name}` does not have the default, {value}."
            hint = f"Write `defaults: {{{name}: {allowed[0]}}}`, for instance. It has {listed(allowed)}."
            yield Violation(f"no {name}", (name,), message, hint)
    if not account.sizes or account.size_of(parameters) is not None:
        return
    ratio, resolution = parameters.aspect_ratio, parameters.resolution
    table = account.sizes.get(resolution)
    if table is None:
        message = f"The account `{account.name}` has no sizes for the resolution {resolution}."
        hint = f"It has {listed(account.sizes)}."
        of: tuple[str, ...] = ("resolution",)
    else:
        message = f"The account `{account.name}` has no size for {ratio} at {resolution}."
        hint, of = f"It has {listed(table)}.", ("aspect_ratio", "resolution")
    more = f"Or define it: providers: {{{account.name}: {{sizes: {{{resolution}: {{{ratio}: WIDTHxHEIGHT}}}}}}}}."
    yield Violation(f"size {ratio} {resolution}", of, message, f"{hint} {more}")


def _of_image(parameters: Parameters) -> Iterator[Violation]:
    if parameters.image is not None:
        if parameters.negative_prompt is not None:
            message = "A negative prompt cannot go together with an image."
            hint = "Remove one of the two; `negative_prompt: ~` removes a default."
            yield Violation("negative_prompt", ("image", "negative_prompt"), message, hint)
        return
    for name in _WITH_IMAGE:
        if getattr(parameters, name) is not None:
            yield Violation(f"{name} alone", (name,), f"`{name}` needs an `image`.", "Add the image, or remove it.")


def doubts(parameters: Parameters) -> Iterator[Violation]:
    """The soft rules that a job breaks: upstream is known not to do it, a gateway may."""
    name = parameters.model
    for limit in _model(name).known_limitations:
        value = getattr(parameters, limit.parameter)
        if value == limit.value:
            with_value = f"{limit.parameter} {value}" if limit.value is not None else f"no {limit.parameter}"
            message = f"{name} with {with_value} may fail: {limit.why}."
            of = ("model", limit.parameter)
            yield Violation(f"known limitation {limit.parameter}", of, message, "The gateway may differ.", soft=True)
    if parameters.human_fidelity is not None and parameters.image_reference == "face":
        message = "According to the API, `human_fidelity` works with `image_reference: subject` only."
        yield Violation("human_fidelity", ("human_fidelity", "image_reference"), message, soft=True)


@lru_cache(maxsize=256)
def _model(name: str) -> Model:
    """A model's rules; one that the catalogue does not know has none."""
    return builtin().models.get(name) or Model(name=name)
