"""Recognises a refusal by content policy from its message, for gateways that give no code.

A task's message alone says why it failed (`task_status_msg`). A request that policy refused would be refused again,
and each try may be paid; a task that failed for another reason deserves another attempt. So a message counts only where
it certainly concerns policy.
"""

from __future__ import annotations

import re

# Sources, read 2026-11: "Failure to pass the risk control system" is Kling's own; OpenAI's refusals name its "safety
# system", Azure's its "content management policy"; LiteLLM puts the name of its error before what it passes on.
_POLICY = re.compile(
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
_TEMPORARY = re.compile(
    r"unavailable|time[d]?[ -]?out|internal error|try (it )?again|retry|overload|busy|could not be checked|超时|稍后",
    re.IGNORECASE,
)


def is_refusal(message: str) -> bool:
    """Whether a message certainly says that the content was refused."""
    return bool(_POLICY.search(message)) and not _TEMPORARY.search(message)
