"""Where this book lives: the address that every page, first cell and package names, or none.

One setting decides, so that a fork's readers get the fork: $ZOTI_REPOSITORY, or else git's own remote `origin`. An
empty $ZOTI_REPOSITORY means nowhere. No file in git holds an address: whoever came to own it would serve code to every
reader. Plain Python, for it is asked while the package is built, where nothing is installed.

    python book/address.py NOTEBOOK...    writes the address into the first cell of these: for a branch that Colab opens
"""

import os
import re
import subprocess
import sys
from pathlib import Path

#: https://host/owner/name, ssh://git@host/owner/name.git or git@host:owner/name: whatever git takes for a far place
REMOTE = re.compile(
    r"(?:(?P<scheme>https?|ssh|git)://)?(?:[^@/\s]+@)?(?P<host>[\w-]+(?:\.[\w-]+)*\.[a-z]{2,})(?P<port>:\d+)?"
    r"(?:/|(?<=[a-z]):)(?P<path>[\w.~-]+(?:/[\w.~-]+?)+)(?:\.git)?/?"
)


def address(root: Path) -> str | None:
    """The https address of the repository at root, or None where it has none that a reader could reach.

    Raises ValueError where $ZOTI_REPOSITORY is set to something that is no address.
    """
    told = os.environ.get("ZOTI_REPOSITORY")
    if told is not None:
        found = public(told.strip())
        if told.strip() and found is None:
            raise ValueError(f"ZOTI_REPOSITORY={told!r} is no address; give one such as https://host/owner/name")
        return found
    ask = ["git", "-C", str(root)]
    try:
        inside = subprocess.run([*ask, "rev-parse", "--show-prefix"], capture_output=True, text=True)
        if inside.returncode or inside.stdout.strip():  # no repository, or only a folder in somebody else's
            return None
        remote = subprocess.run([*ask, "remote", "get-url", "origin"], capture_output=True, text=True)
    except FileNotFoundError:  # no git
        return None
    return public(remote.stdout.strip())


def public(remote: str) -> str | None:
    """A git remote as anybody may open it: by https, without names and passwords; None for a place on this machine.

    >>> public("git@github.com:teacher/zoti.git"), public("https://me:secret@gitlab.com/a/course/zoti.git/")
    ('https://github.com/teacher/zoti', 'https://gitlab.com/a/course/zoti')
    >>> public("../zoti.git")
    """
    match = REMOTE.fullmatch(remote)
    if match is None:
        return None
    web = (match["scheme"] or "").startswith("http")
    scheme = match["scheme"] if web else "https"
    port = match["port"] if web and match["port"] else ""  # ssh's port is not the web's
    return f"{scheme}://{match['host']}{port}/{match['path']}"


def fill(notebook: str, home: str | None) -> str:
    """A notebook's file, its first cell told where the book lives; as it was where that is nowhere."""
    return notebook.replace(r'"REPOSITORY = \"\"', rf'"REPOSITORY = \"{home}\"', 1) if home else notebook


if __name__ == "__main__":
    home = address(Path(__file__).parent.parent)
    if home is None:
        sys.exit("this book has no address: set ZOTI_REPOSITORY=https://host/owner/name, or git's remote `origin`")
    for file in map(Path, sys.argv[1:]):
        file.write_text(fill(file.read_text(encoding="utf-8"), home), encoding="utf-8")
