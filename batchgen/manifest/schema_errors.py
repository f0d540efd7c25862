"""A validator's errors in our own words: what is wrong, what was meant, what is allowed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from batchgen.catalog.load import builtin as builtin_catalog
from batchgen.jobs import PARAMETER_NAMES
from batchgen.manifest.diagnostics import cut, listed, meant, nearest

if TYPE_CHECKING:
    from jsonschema.exceptions import ValidationError

    from batchgen.manifest.model import NodePath
    from batchgen.source.document import Value

_TYPES = {
    "string": "a text",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "object": "a mapping (keys with values)",
    "array": "a list",
    "null": "null",
}
_SECRETS = frozenset(
    [
        "api_key",
        "apikey",
        "key",
        "token",
        "secret",
        "access_key",
        "accesskey",
        "secret_key",
        "secretkey",
        "password",
        "authorization",
        "bearer",
        "ak",
        "sk",
        "api_token",
        "access_token",
    ]
)
_VARIABLE_KEYS = frozenset({"api_key_env", "access_key_env", "secret_key_env"})
# keys that people bring from elsewhere, and what they are called here
_KNOWN_ELSEWHERE = {
    "ratio": "aspect_ratio",
    "size": "aspect_ratio",
    "ratios": "aspect_ratio",
    "models": "model",
    "model_name": "model",
    "prompts": "prompt",
    "text": "prompt",
    "negative": "negative_prompt",
    "count": "n",
    "num_images": "n",
    "variables": "vars",
    "accounts": "providers",
    "file": "from",
    "watermark": "watermark_info",
    "jobs": "include",
    "timeout": "task_timeout",
    "retries": "max_attempts",
}
_OF_BLOCK = frozenset({"prompt", "vars", "zip", "sample", *PARAMETER_NAMES})
_OF_PROMPT = frozenset({"from", "column", "rows", "where"})
_DURATION = ("is not a duration", "Write 90s, 15m, 2h, or a number of seconds.")
_ADDRESS = ("is not an address", "It begins with http:// or https:// and has no query.")
_SIZE = "Write width and height in pixels, like 1024x576."
# texts that do not have the form they must have: what they are not, and how to write them
_WRITTEN = {
    "name": ("cannot name a folder everywhere", "Use letters, digits, `.`, `_` and `-`; no dot first or last."),
    "task_timeout": _DURATION,
    "give_up_after": _DURATION,
    "grace": _DURATION,
    "base_url": _ADDRESS,
    "public_url": _ADDRESS,
    "listen": ("is not host:port", "Write it like 0.0.0.0:8787."),
    "on_finish": ("is not the URL of a webhook", "Write a command as a list of words: [notify-send, finished]."),
    "sizes": ("is no size", _SIZE),
}
_SECONDS = (("request_timeout",), ("visibility_delay",))
_FEW_KEYS = 12
MOST_UNKNOWN = 50  # keys of one mapping that are told one by one, each with what was probably meant
_OWN = frozenset({"external_task_id", "callback_url"})


@dataclass(frozen=True, slots=True)
class SchemaFault:
    """What the schema refuses, and where; `drops` when the value at `path` is of no further use."""

    path: NodePath
    message: str
    hint: str = ""
    key: bool = False
    drops: bool = True
    of_type: bool = False
    ends: bool = False  # there are more, and nothing can be said about the rest of the document

    def at(self, path: NodePath) -> SchemaFault:
        """The same elsewhere."""
        return replace(self, path=path)


def of_error(error: ValidationError, root: Value) -> list[SchemaFault]:
    """An error of jsonschema as faults: one, or one for each key that is too many."""
    path: NodePath = tuple(error.absolute_path)
    keyword = str(error.validator)
    if keyword == "additionalProperties":
        return _unknown_keys(error, path, root)
    if keyword == "required":
        return _missing(error, path)
    message, hint = _WORDS.get(keyword, _other)(error, path)
    of_type = keyword in {"type", "enum"}
    return [SchemaFault(path, message, hint, drops=keyword != "uniqueItems", of_type=of_type)]


def is_secret(path: NodePath) -> bool:
    """Whether a value at this path may be a key, which no message may show."""
    if path[2:3] == ("headers",) and path[-1] == "env":
        return True
    return any(_folded(step) in _SECRETS or step in _VARIABLE_KEYS for step in path if isinstance(step, str))


def _folded(key: str) -> str:
    return key.casefold().replace("-", "_")


def _unknown_keys(error: ValidationError, path: NodePath, root: Value) -> list[SchemaFault]:
    schema: Any = error.schema
    known = list(schema.get("properties", {}))
    faults = []
    given: Any = error.instance
    unknown = [key for key in given if key not in known]
    if len(unknown) > MOST_UNKNOWN:
        message = f"There are {len(unknown) - MOST_UNKNOWN:,} more keys here that are not known."
        faults.append(SchemaFault(path, message, "Mend the others first."))
    for key in unknown[:MOST_UNKNOWN]:
        here = (*path, key)
        message, hint = _unknown(key, known, path, root)
        faults.append(SchemaFault(here, message, hint, key=True))
    return faults


def _unknown(key: str, known: list[str], path: NodePath, root: Value) -> tuple[str, str]:
    folded = _folded(key)
    if folded in _SECRETS:
        variable = _variable(folded, path, root)
        return "A key is never written into a manifest.", f"Put it into the environment variable {variable}."
    if folded in _OWN:
        return f"`{key}` is batchgen's own to set.", "Leave it out."
    if key == "prompt" and "id" in known:
        return "`prompt` cannot be set by an entry of another axis.", "Put it into the axis `prompt`."
    if home := _home(folded, known):
        return f"There is no key `{cut(key)}` here.", home
    elsewhere = _KNOWN_ELSEWHERE.get(folded, "")
    guess = nearest(key, known) or (elsewhere if elsewhere in known else "")
    hint = f"Did you mean `{guess}`?" if guess else f"Known here are {listed(known, 30)}."
    return f"There is no key `{cut(key)}` here.", hint


def _home(key: str, known: list[str]) -> str:
    """Where a key belongs that stands a level too high."""
    if "matrix" in known and key in _OF_BLOCK:
        return f"`{key}` belongs into `matrix`."
    if "zip" in known and key in _OF_PROMPT:
        return f"`{key}` belongs into an entry of `prompt`: prompt: {{{key}: …}}."
    return ""


def _variable(key: str, path: NodePath, root: Value) -> str:
    """The variable that an account reads its key from."""
    name = str(path[1]) if len(path) > 1 and path[0] == "providers" else ""
    settings = root["providers"].get(name) if name else None
    settings = settings if isinstance(settings, dict) else {}
    base = settings.get("use", name or root.get("provider"))
    builtin = builtin_catalog().raw_accounts.get(str(base), {})
    wanted = {"access_key": "access_key_env", "accesskey": "access_key_env", "ak": "access_key_env"}
    wanted |= {"secret_key": "secret_key_env", "secretkey": "secret_key_env", "sk": "secret_key_env"}
    names = [wanted.get(key, "api_key_env"), "api_key_env", "access_key_env"]
    for field in names:
        variable = builtin.get(field)
        if variable:
            return str(variable)
    return "that the account names with `api_key_env`"


def _missing(error: ValidationError, path: NodePath) -> list[SchemaFault]:
    wanted: Any = error.validator_value
    given: Any = error.instance
    absent = [name for name in wanted if name not in given]
    if absent == ["prompt"]:
        hint = "Write `prompt: …`, or `from: FILE` for the prompts of a file."
        return [SchemaFault(path, "This entry has no prompt.", hint)]
    hints = {
        "version": "Write `version: 1`, without quotes.",
        "name": "Write `name: …`; it names the output folder.",
        "provider": "Write `provider: sandbox` to try it on this machine without a key.",
    }
    return [
        SchemaFault(path, f"The key `{name}` is missing.", hints.get(name, f"Add `{name}: …`."), drops=bool(path))
        for name in absent
    ]


def _type(error: ValidationError, path: NodePath) -> tuple[str, str]:
    wanted: Any = error.validator_value
    names = [wanted] if isinstance(wanted, str) else list(wanted)
    names = [name for name in names if name != "null"] or names
    what = _kind(error.instance)
    message = f"This must be {' or '.join(_TYPES[name] for name in names)}, not {what}."
    hint = ""
    value = error.instance
    if is_secret(path):
        return "This must be the name of an environment variable.", ""
    if "string" in names and isinstance(value, (int, float)):
        hint = f'Write it in quotes: "{str(value).lower() if isinstance(value, bool) else value}".'
    elif isinstance(value, str) and {"integer", "number"} & set(names) and _is_number(value):
        hint = f"Write it without quotes: {value.strip()}."
    elif "boolean" in names and isinstance(value, str):
        hint = "Write true or false." if "object" not in names else ""
    elif path[-1:] == ("watermark_info",):
        hint = "Write {enabled: true}."
    elif names == ["array"]:
        hint = "Begin each entry with a dash, or write [ … ]."
    elif path[-1:] in _SECONDS:
        hint = "Write seconds, without a unit: 90."
    elif path[-2:] == ("limits", "concurrency"):
        hint = "Where nobody knows it, leave it out: a run finds out how many the account takes."
    elif names == ["object"]:
        hint = _keys_of(error)
    if "sizes" in path and names == ["string"]:
        hint = _SIZE
    return message, hint


def _keys_of(error: ValidationError) -> str:
    schema: Any = error.schema
    known = list(schema.get("properties", {}))
    return f"Known here are {listed(known)}." if 0 < len(known) <= _FEW_KEYS else ""


def _kind(value: Value) -> str:
    if value is None:
        return "empty"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (int, float)):
        return f"the number {value}"
    if isinstance(value, str):
        return f'the text "{cut(value)}"'
    return "a mapping" if isinstance(value, dict) else "a list"


def _is_number(text: str) -> bool:
    return text.strip().replace(".", "", 1).replace("-", "", 1).isdigit()


def _enum(error: ValidationError, path: NodePath) -> tuple[str, str]:
    wanted: Any = error.validator_value
    allowed = [value for value in wanted if value is not None]
    value = error.instance
    message = f"{_kind(value).capitalize() if value is None else _quoted(value)} is not allowed here."
    if path[:1] == ("version",):
        return f"There is no version {cut(value)} of manifests.", "Write `version: 1`."
    if isinstance(value, bool) and "yes" in allowed:
        return message, f"Write {'yes' if value else 'no'}; true and false are other words in YAML."
    if isinstance(value, int) and "16:9" in allowed:
        ratio = "{}:{}".format(*divmod(value, 60))
        if ratio in allowed:
            return message, f"Was this an unquoted {ratio}, which other YAML tools read as a number?"
    if isinstance(value, str):
        guess = _near_value(value, [str(word) for word in allowed])
        if guess:
            return message, f"Did you mean {guess}? Allowed are {listed(allowed)}."
    return message, f"Allowed are {listed(allowed)}."


def _near_value(value: str, allowed: list[str]) -> str:
    folded = value.casefold().replace("x", ":").replace("/", ":").replace("×", ":").replace(" ", "")
    if folded in allowed:
        return folded
    return "" if "16:9" in allowed else nearest(value, allowed)  # a ratio that looks alike is another shape


def _quoted(value: Value) -> str:
    return f'"{cut(value)}"' if isinstance(value, str) else _kind(value).capitalize()


def _pattern(error: ValidationError, path: NodePath) -> tuple[str, str]:
    last = path[-1] if path else ""
    if is_secret(path):
        hint = "Put the key into a variable of the environment, and the variable's name here."
        return "This must be the name of an environment variable, not a key.", hint
    key = "sizes" if "sizes" in path else str(last)
    what, hint = _WRITTEN.get(key, ("is not written as it must be", ""))
    return f'"{cut(error.instance)}" {what}.', hint


def _bound(error: ValidationError, _path: NodePath) -> tuple[str, str]:
    schema: Any = error.schema
    low, high = schema.get("minimum"), schema.get("maximum")
    above = schema.get("exclusiveMinimum")
    if low is not None and high is not None:
        hint = f"It may be from {low} to {high}."
    elif above is not None:
        hint = f"It must be more than {above}."
    else:
        hint = f"It must be at least {low}." if low is not None else f"It may be at most {high}."
    small = error.validator != "maximum"
    return f"{error.instance} is too {'small' if small else 'large'}.", hint


def _few(error: ValidationError, _path: NodePath) -> tuple[str, str]:
    if error.validator == "minLength":
        return "This is empty.", "Write a text, or take the key out."
    if error.validator == "minProperties":
        return "This mapping is empty.", "Write at least one key, or take it out."
    return "This list is empty.", "Write at least one entry, or take the key out."


def _long(error: ValidationError, _path: NodePath) -> tuple[str, str]:
    size = len(str(error.instance))
    return f"This is {size:,} characters long.", f"It may be at most {error.validator_value}."


def _twice(error: ValidationError, _path: NodePath) -> tuple[str, str]:
    items: Any = error.instance
    seen: set[str] = set()
    for item in items:
        if repr(item) in seen:
            return f"{_quoted(item)} is in this list twice.", "Take one of them out."
        seen.add(repr(item))
    return "An entry is in this list twice.", "Take one of them out."


def _other(error: ValidationError, _path: NodePath) -> tuple[str, str]:
    return f"{_quoted(error.instance)} is not allowed here.", meant("", [])


_WORDS = {
    "type": _type,
    "enum": _enum,
    "pattern": _pattern,
    "minimum": _bound,
    "maximum": _bound,
    "exclusiveMinimum": _bound,
    "minItems": _few,
    "minLength": _few,
    "minProperties": _few,
    "maxLength": _long,
    "uniqueItems": _twice,
}
