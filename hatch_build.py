"""What the package says and carries beyond pyproject.toml: README's links made whole, the model and pictures."""

import re
import runpy
from pathlib import Path

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from hatchling.metadata.plugin.interface import MetadataHookInterface

#: ![words](target), [words](target) and [![words](target)](target), where target is a file of the repository
LINK = re.compile(r"(?P<picture>!?)\[(?P<words>[^\]]*)\]\((?P<target>(?!https?:|#)[^)\s]+)\)")


class Readme(MetadataHookInterface):
    """README.md is also the page on PyPI, which has none of the files that it points to.

    With an address (book/address.py) links lead there; without one they are plain words, and the picture goes.
    """

    def update(self, metadata: dict) -> None:
        root = Path(self.root)
        address = runpy.run_path(str(root / "book" / "address.py"))["address"](root)
        text = LINK.sub(lambda link: elsewhere(link, address), (root / "README.md").read_text(encoding="utf-8"))
        metadata["readme"] = {"content-type": "text/markdown", "text": re.sub(r"\n{3,}", "\n\n", text)}
        if address:
            metadata["urls"] = {"Source": address}


def elsewhere(link: re.Match[str], address: str | None) -> str:
    """A link of README.md as it reads where README.md stands alone."""
    if address is None:
        return "" if link["picture"] else link["words"]
    kind = "raw" if link["picture"] else "blob"
    return f"{link['picture']}[{link['words']}]({address}/{kind}/HEAD/{link['target']})"


class Data(BuildHookInterface):
    """A pip-installed zoti opens the same model and pictures as a checkout does; an editable one is a checkout."""

    def initialize(self, version: str, build_data: dict) -> None:
        if version != "editable":
            for name in self.config["data"]:
                build_data["force_include"][str(Path(self.root) / "data" / name)] = f"zoti/_data/{name}"
