"""What says that a request was refused for its content: words of messages, for gateways that give no code.

An API tells why a task failed in a sentence only (`task_status_msg`). What policy refuses, it refuses again, and each
try may be paid; what failed for another reason deserves another attempt. So only what
certainly speaks of policy counts.
"""

from __future__ import annotations

import re

# Sources, read 2026-11: "Failure to pass the risk control system" is Kling's own; OpenAI's refusals name its "safety
# system", Azure's its "content management policy"; LiteLLM puts the name of its error before what it passes on.
_SPEAKS_OF_POLICY = re.compile(
    r"""
      risk[ -]control
    | content[ _-]?(policy|safety|moderation|filter|management[ ]policy|security)
    | contentpolicyviolation
    | safety[ ](system|filter|polic\w+|check)
    | (usage|platform|community)[ ](polic\w+|guidelines)
    | (violat\w+|against)[ ][^.]{0,40}(polic\w+|guidelines|terms)
    | (blocked|rejected|flagged|failed)[ ][^.]{0,40}moderation
    | (sensitive|prohibited|forbidden|inappropriate)[ ](content|words?|information|image|material)
    | \bnsfw\b
    | \b(code|error)[ :=#]*130[01]\b
    | ^130[01]\b
    | 风控 | 敏感 | 违规 | 违禁 | 内容安全 | 审核(未|不)通过
    """,
    re.IGNORECASE | re.VERBOSE,
)
# The check itself did not work: another attempt may pass it.
_SPEAKS_OF_TROUBLE = re.compile(
    r"unavailable|time[d]?[ -]?out|internal error|try (it )?again|retry|overload|busy|could not be checked|超时|稍后",
    re.IGNORECASE,
)


def is_refusal(message: str) -> bool:
    """Whether a message certainly says that the content was refused."""
    return bool(_SPEAKS_OF_POLICY.search(message)) and not _SPEAKS_OF_TROUBLE.search(message)
