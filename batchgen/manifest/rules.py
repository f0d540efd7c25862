"""What a model and an account can do with the parameters of one job (source: the API's reference)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from batchgen.catalog.load import builtin
from batchgen.catalog.models import Model
from batchgen.manifest.diagnostics import listed, nearest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from batchgen.catalog.accounts import Account
    from batchgen.jobs import Parameters
    from batchgen.manifest.model import Settings

_WITH_IMAGE = ("image_reference", "image_fidelity", "human_fidelity")
_ALWAYS = frozenset({"model", "aspect_ratio", "resolution", "n"})


@dataclass(frozen=True, slots=True)
class Breach:
    """A rule that a job's parameters break, by the parameters that break it together."""

    rule: str
    of: tuple[str, ...]
    message: str
    hint: str = ""
    soft: bool = False  # upstream's, which a gateway may not share


def breaches(parameters: Parameters, settings: Settings, account: Account, units: int) -> Iterator[Breach]:
    """The hard rules that a job breaks; `units` is the concurrency of the account in force."""
    yield from _of_model(parameters, settings, account)
    yield from _of_size(parameters, account)
    if "image" in account.fields:  # else it is said below that the account does not know these
        yield from _of_image(parameters)
    for name, setting in settings.items():
        if name not in account.fields and setting.value is not None:
            message = f"The account `{account.name}` does not know `{name}`."
            yield Breach(f"field {name}", (name,), message, "Take it out, or use another account.")
    if parameters.n > units:
        message = f"A task of n {parameters.n} could never start: the account's concurrency is {units}."
        yield Breach("units", ("n",), message, f"Write n: {units} or less, and `repeat` for more images.")


def _of_model(parameters: Parameters, settings: Settings, account: Account) -> Iterator[Breach]:
    name = parameters.model
    if name not in account.models and "model" not in settings:
        message = f'No model is given, and the default, "{name}", is none of the account `{account.name}`.'
        hint = f"Write `defaults: {{model: {account.models[0]}}}`, for instance. It has {listed(account.models)}."
        yield Breach("no model", ("model",), message, hint)
    elif name not in account.models:
        guess = nearest(name, account.models)
        hint = f"Did you mean `{guess}`? " if guess else ""
        message = f'The account `{account.name}` has no model "{name[:60]}".'
        yield Breach("model", ("model",), message, f"{hint}It has {listed(account.models)}.")
    elif not _model(name).image_reference:
        if parameters.image_reference is not None:
            able = listed(other for other in account.models if _model(other).image_reference)
            message = f"{name} does not take `image_reference`."
            yield Breach("image_reference", ("image_reference", "model"), message, f"Only {able or 'no model'} does.")
    elif parameters.image is not None and parameters.image_reference is None:
        message = f"{name} wants `image_reference` with every image."
        yield Breach("no image_reference", ("image", "model"), message, "Add `image_reference: subject` or `face`.")


def _of_size(parameters: Parameters, account: Account) -> Iterator[Breach]:
    """Where an account wants pixels, a ratio must have a size there."""
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
    more = (
        f"Or say what it makes: providers: {{{account.name}: {{sizes: {{{resolution}: {{{ratio}: WIDTHxHEIGHT}}}}}}}}."
    )
    yield Breach(f"size {ratio} {resolution}", of, message, f"{hint} {more}")


def _of_image(parameters: Parameters) -> Iterator[Breach]:
    if parameters.image is not None:
        if parameters.negative_prompt is not None:
            message = "A negative prompt cannot go together with an image."
            hint = "Take one of the two away; `negative_prompt: ~` takes a default away."
            yield Breach("negative_prompt", ("image", "negative_prompt"), message, hint)
        return
    for name in _WITH_IMAGE:
        if getattr(parameters, name) is not None:
            yield Breach(f"{name} alone", (name,), f"`{name}` needs an `image`.", "Add the image, or take it out.")


def doubts(parameters: Parameters) -> Iterator[Breach]:
    """The soft rules that a job breaks: upstream is known not to do it, a gateway may."""
    name = parameters.model
    for limit in _model(name).known_limitations:
        value = getattr(parameters, limit.parameter)
        if value == limit.value:
            with_value = f"{limit.parameter} {value}" if limit.value is not None else f"no {limit.parameter}"
            message = f"{name} with {with_value} may fail: {limit.why}."
            of = ("model", limit.parameter)
            yield Breach(f"known limitation {limit.parameter}", of, message, "The gateway may differ.", soft=True)
    if parameters.human_fidelity is not None and parameters.image_reference == "face":
        message = "`human_fidelity` is said to have effect with `image_reference: subject` only."
        yield Breach("human_fidelity", ("human_fidelity", "image_reference"), message, soft=True)


@lru_cache(maxsize=256)
def _model(name: str) -> Model:
    """A model's rules; one that the catalogue does not know has none."""
    return builtin().models.get(name) or Model(name=name)
