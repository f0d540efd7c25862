"""The examples of a definition: documented answers, and what has to be read out of each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from batchgen.apis.definition import Definition, Step

Wrong = tuple[tuple[str | int, ...], str]
_KEYS = frozenset({"step", "status", "answer", "gives"})


def wrong_examples(definition: Definition, raw: Mapping[str, Any]) -> Iterator[Wrong]:
    """Where an example gives something else than it says, or is none; with its path in the definition."""
    examples = raw.get("examples", [])
    if not isinstance(examples, list):
        yield ("examples",), "The examples are a list."
        return
    for number, example in enumerate(examples):
        path = ("examples", number)
        if not isinstance(example, dict) or not set(example) <= _KEYS or not isinstance(example.get("gives"), dict):
            yield path, "An example has `step`, `answer` and `gives`, and `status` where it is not 200."
            continue
        step, called = definition.steps.get(str(example.get("step"))), definition.callback
        if example.get("step") == "callback" and called is not None:
            found = called.read(example.get("answer"), definition.steps.get("query"))
        elif step is not None:
            status = example.get("status", 200)
            found = read(definition, step, status if isinstance(status, int) else 0, example.get("answer"))
        else:
            yield path, f"The definition has no step `{str(example.get('step'))[:40]}`."
            continue
        for name, wanted in example["gives"].items():
            if name not in found:
                yield (*path, "gives", name), f"Nothing is read out of it under this name; what is: {', '.join(found)}."
            elif (got := found[name]) != wanted:
                yield (*path, "gives", name), f"This gives {str(got)[:200]!r}, not {str(wanted)[:200]!r}."


def read(definition: Definition, step: Step, status: int, answer: Any) -> dict[str, Any]:  # noqa: ANN401 - any JSON
    """What is read out of an answer to a step: `means` by `errors`, and what each selector finds."""
    found: dict[str, Any] = {"means": definition.means(step, status, answer)}
    if step.next_url is not None:
        found["next"] = step.next_url.word(answer)
    items = step.selectors["items"].of(answer) if "items" in step.selectors else None
    if items is not None:
        found["items"] = len(items) if isinstance(items, list) else 0
        answer = items[0] if isinstance(items, list) and items else None
    for name in ("task", "mark", "created", "give"):
        if name in step.selectors:
            found[name] = step.selectors[name].word(answer)
    for name in ("blocked", "missing"):
        if name in step.selectors:
            found[name] = step.selectors[name].holds(answer)
    for name in ("cost", "message", "balance"):
        if name in step.selectors:
            found[name] = step.selectors[name].of(answer)
    if "state" in step.selectors:
        found["state"] = step.state(answer)[0]
    if step.images is not None and step.images.selector is not None:
        images = step.images.selector.of(answer)
        images = images if isinstance(images, list) else [images]
        found["images"] = [image for image in images if isinstance(image, str | dict) and image]
    return found
