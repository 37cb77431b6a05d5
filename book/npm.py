"""Files of a package in npm's registry, by version and checksum, so that nobody needs npm or Node to make the book."""

import base64
import hashlib
import io
import tarfile
from pathlib import Path
from urllib.request import urlopen


def bring(package: str, sha512: str, members: tuple[str, ...], folder: Path) -> list[Path]:
    """Some files of a package (`onnxruntime-web-1.30.0`), in a folder here; asked for only if they are not there yet.

    Raises OSError where the registry is out of reach, ValueError for another package than the one with this checksum.
    """
    wanted = [folder / package / Path(member).name for member in members]
    if not all(path.exists() for path in wanted):
        (folder / package).mkdir(parents=True, exist_ok=True)
        address = f"https://registry.npmjs.org/{package.rpartition('-')[0]}/-/{package}.tgz"
        with urlopen(address, timeout=60) as answer:
            content = answer.read()
        found = base64.b64encode(hashlib.sha512(content).digest()).decode()
        if found != sha512:
            raise ValueError(f"{address} should have the SHA-512 {sha512}, and has {found}; it is not used")
        with tarfile.open(fileobj=io.BytesIO(content)) as tar:
            for member, path in zip(members, wanted, strict=True):
                file = tar.extractfile(f"package/{member}")
                assert file is not None
                draft = path.with_name(f"{path.name}.part")
                draft.write_bytes(file.read())
                draft.replace(path)
    return wanted
