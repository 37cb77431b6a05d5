"""What the book takes from npm's registry is what was looked at, or is not used."""

import base64
import hashlib
import importlib.util
import io
import tarfile
from pathlib import Path

import pytest

spec = importlib.util.spec_from_file_location("npm", Path(__file__).parents[2] / "book" / "npm.py")
npm = importlib.util.module_from_spec(spec)
spec.loader.exec_module(npm)


@pytest.fixture
def asked(monkeypatch):
    """What the registry was asked for; it answers with one small package, whose checksum comes first."""
    package, asked = io.BytesIO(), []
    with tarfile.open(fileobj=package, mode="w:gz") as tar:
        member = tarfile.TarInfo("package/dist/a.js")
        member.size = 4
        tar.addfile(member, io.BytesIO(b"a();"))
    content = package.getvalue()
    asked.append(base64.b64encode(hashlib.sha512(content).digest()).decode())
    monkeypatch.setattr(npm, "urlopen", lambda address, timeout: asked.append(address) or io.BytesIO(content))
    return asked


def test_a_package_is_asked_for_once(asked, tmp_path):
    for _ in range(2):
        (file,) = npm.bring("one-1.0", asked[0], ("dist/a.js",), tmp_path)
        assert file.read_bytes() == b"a();"
    assert asked[1:] == ["https://registry.npmjs.org/one/-/one-1.0.tgz"]
    npm.bring("one-1.1", asked[0], ("dist/a.js",), tmp_path)
    assert len(asked) == 3, "another version is another file"


def test_another_package_is_not_used(asked, tmp_path):
    with pytest.raises(ValueError, match="not used"):
        npm.bring("one-1.0", "another", ("dist/a.js",), tmp_path)
    assert not list(tmp_path.rglob("*.js"))
