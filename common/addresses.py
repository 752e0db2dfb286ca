"""Addresses of servers and databases: which of their parameters are secrets."""

import re

SECRET_NAME = r"[\w-]*(?:password|passwd|pwd|token|secret|odbc_connect)[\w-]*"
"""Pattern of the names of parameters (`?password=...`) whose values are secrets; its case does not matter."""


def is_secret(name: str) -> bool:
    """Whether the value of an address's parameter of that name is a secret."""
    return re.fullmatch(SECRET_NAME, name, re.IGNORECASE) is not None


def without_query_secrets(text: str) -> str:
    """A text with addresses, without the values of their parameters that are secrets."""
    return re.sub(rf"([?&]{SECRET_NAME}=)[^&\s]*", r"\1***", text, flags=re.IGNORECASE)
