"""A page's frame: one HTML file that needs nothing else, under a policy that allows its own style and script only."""

import base64
import hashlib
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from string import Template

__all__ = ["asset", "fill", "fingerprint"]


@cache
def asset(name: str) -> str:
    """A file of the folder page/."""
    return (files("whence.report") / "page" / name).read_text(encoding="utf-8")


def fingerprint(text: str) -> str:
    """A script or style as a content security policy names it."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def fill(template: str, styles: Sequence[str], script: str, **parts: str) -> str:
    """A template of page/ with its styles and script inside, under a policy that forbids every request.

    Args:
        template: Its name.
        styles: Names of style sheets, in order.
        script: Name of its only script.
        **parts: What else the template asks for, as HTML.
    """
    style, code = "".join(asset(name) for name in styles), asset(script)
    policy = (
        f"default-src 'none'; style-src '{fingerprint(style)}'; script-src '{fingerprint(code)}'; "
        "base-uri 'none'; form-action 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
    )
    return Template(asset(template)).substitute(policy=policy, style=style, script=code, **parts)
