"""What a page needs to learn a word by itself: tiny-sd's graphs, its tokenizer and onnxruntime, as scripts.

A page opened from a folder (file://) may not fetch, but it may load a script. So every part is one or more classic
scripts, gzip in base64, which tell `zotiPart(name, number, text)`; the same serve over http. Nothing is loaded with a
page: a reader has to ask, assets/engine/worker.js does the rest.

onnxruntime-web comes from npm's registry when the book is made, by version and checksum, instead of lying in the
repository: 14 MB of machine code that nobody could review there, and that every clone would carry for good. The
checksum makes it the same as if it did. It is kept in _build, so that only a first build asks for it.
"""

import base64
import gzip
import json
from pathlib import Path

import npm

from zoti import PRESETS, ConceptToken, load_pipeline, sensitive_directions
from zoti.data import Pipeline, load_subject
from zoti.images import square
from zoti.model import export_pipeline
from zoti.page import LESSONS

ROOT = Path(__file__).parent.parent
MODULES = ROOT / "assets" / "engine"
PACKAGE = "onnxruntime-web-1.30.0"
SHA512 = "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
# One file with the JavaScript and its glue, and WebAssembly for one thread or more, on the CPU.
FILES = ("dist/ort.wasm.bundle.min.mjs", "dist/ort-wasm-simd-threaded.wasm")
PIECE = 3 << 20  # letters of base64 in one script: a step of the progress a reader sees
LICENCE = """onnxruntime-web 1.30.0, from https://www.npmjs.com/package/onnxruntime-web, unchanged. MIT License.

Copyright (c) Microsoft Corporation

Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated
documentation files (the "Software"), to deal in the Software without restriction, including without limitation the
rights to use, copy, modify, merge, publish, distribute, sublicense, and/or sell copies of the Software, and to permit
persons to whom the Software is furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all copies or substantial portions of the
Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO THE
WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR
COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR
OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.
"""


def tokenizer(pipe: Pipeline) -> dict:
    """All that assets/engine/tokenizer.js asks for."""
    told = json.loads(pipe.tokenizer.backend_tokenizer.to_str())
    rows = pipe.tokenizer.vocab_size
    names = ("bos", "eos", "pad", "unk")
    start, end, pad, unknown = (getattr(pipe.tokenizer, f"{name}_token_id") for name in names)
    return {
        "vocab": told["model"]["vocab"],
        "merges": told["model"]["merges"],
        "special": {one["content"]: one["id"] for one in told["added_tokens"] if one["id"] < rows},
        "start": start,
        "end": end,
        "pad": pad,
        "unknown": unknown,
        "length": pipe.tokenizer.model_max_length,
    }


def lesson(pipe: Pipeline, name: str) -> dict:
    """A shipped subject as a page learns it: pictures (bytes of RGB in base64), and a caption for each."""
    subject = load_subject(name)
    side = pipe.unet.config.sample_size * pipe.vae_scale_factor
    pictures = [square(image, side, "centre").convert("RGB") for image in subject.references]
    return {
        "word": f"<{name}>",
        "noun": subject.class_word,
        "captions": subject.captions,
        "pictures": [base64.b64encode(picture.tobytes()).decode() for picture in pictures],
    }


def settings(pipe: Pipeline) -> dict:
    """How a page learns: the library's preset, and the directions in which the model listens to a word (float32)."""
    preset, first = PRESETS["tiny-sd"], load_subject(LESSONS[0])
    token = ConceptToken(pipe, f"<{LESSONS[0]}>", first.class_word)
    found = sensitive_directions(token, [first.captions[0].replace("{}", token.word)])
    rows = found.rows[:, 0].float().numpy().astype("<f4").tobytes()
    directions = {"rows": base64.b64encode(rows).decode(), "length": found.length}
    return {name: getattr(preset, name) for name in ("mu", "lr", "low", "high", "steps")} | {"directions": directions}


def nouns(pipe: Pipeline) -> dict[str, int]:
    """Things that the model has a word for, one token each, with its row: where a reader's own word may start."""
    scenes = json.loads((ROOT / "data" / "scenes" / "scenes.json").read_text())
    subjects = [path.name for path in (ROOT / "data" / "subjects").iterdir() if (path / "subject.json").exists()]
    known = {scene["concept"] for scene in scenes} | {load_subject(name).class_word for name in subjects}
    ids = {noun: pipe.tokenizer(noun, add_special_tokens=False).input_ids for noun in sorted(known)}
    return {noun: one[0] for noun, one in ids.items() if len(one) == 1}


def parts(pipe: Pipeline, exported: Path, kept: Path) -> dict[str, bytes]:
    """Every part by name."""
    script, wasm = npm.bring(PACKAGE, SHA512, FILES, kept)
    told = {path.stem: path.read_text() for path in sorted(MODULES.glob("*.js"))}
    return {
        "modules": json.dumps(told).encode(),
        "runtime": script.read_bytes(),
        "wasm": wasm.read_bytes(),
        "facts": (exported / "model.json").read_bytes(),
        "tokenizer": json.dumps(tokenizer(pipe)).encode(),
        "table": (exported / "table.safetensors").read_bytes(),
        "lessons": json.dumps([lesson(pipe, name) for name in LESSONS]).encode(),
        "settings": json.dumps(settings(pipe)).encode(),
        "nouns": json.dumps(nouns(pipe)).encode(),
        **{name: (exported / f"{name}.onnx").read_bytes() for name in ("encode", "noise", "decode")},
    }


def scripts(contents: dict[str, bytes]) -> dict[str, str]:
    """Parts as scripts, by file name; `parts.js` says how many there are of each, and how large they are.

    >>> list(scripts({"a": b"word"}))
    ['a-0.js', 'parts.js']
    """
    files, told = {}, {}
    for name, content in contents.items():
        text = base64.b64encode(gzip.compress(content, mtime=0)).decode()
        pieces = [text[i : i + PIECE] for i in range(0, len(text), PIECE)]
        files |= {f"{name}-{i}.js": f'zotiPart("{name}", {i}, "{piece}");\n' for i, piece in enumerate(pieces)}
        told[name] = {"pieces": len(pieces), "letters": len(text), "bytes": len(content)}
    return {**files, "parts.js": f"zotiParts = {json.dumps(told)};\n"}


def bring(site: Path, build: Path) -> Path:
    """Lay the scripts into a built site's _static/learn; the export and the runtime are kept in `build`."""
    pipe = load_pipeline("tiny-sd", weights="int8")
    exported = export_pipeline(pipe, build / "exported")  # left as it is where this very model was exported before
    target = site / "_static" / "learn"
    target.mkdir(parents=True, exist_ok=True)
    files = scripts(parts(pipe, exported, build / "runtime")) | {"LICENSE-onnxruntime-web.txt": LICENCE}
    for old in set(target.iterdir()) - {target / name for name in files}:
        old.unlink()
    for name, text in files.items():
        (target / name).write_text(text)
    return target
