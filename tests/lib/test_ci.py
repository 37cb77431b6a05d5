"""What runs elsewhere, read and run here as far as it goes: the workflow, commit hooks, lowest and newest versions."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
WORKFLOW = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
JOBS = WORKFLOW["jobs"]
STEPS = [(name, step) for name, job in JOBS.items() for step in job["steps"]]
HOOKS = {
    hook["id"]: hook["entry"].split()
    for repo in yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    for hook in repo["hooks"]
}


def test_a_job_may_read_and_only_what_it_needs_to_write_is_granted():
    assert WORKFLOW["permissions"] == {"contents": "read"}
    assert {name: job["permissions"] for name, job in JOBS.items() if "permissions" in job} == {
        "publish": {"pages": "write", "id-token": "write"},
        "notebooks-for-colab": {"contents": "write"},
    }


def test_actions_are_pinned_by_what_cannot_move():
    used = re.findall(r"uses: (\S+)(.*)", (ROOT / ".github" / "workflows" / "ci.yml").read_text())
    assert len(used) == sum("uses" in step for _, step in STEPS) > 0
    for action, version in used:
        assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", action) and re.fullmatch(r"  # v[\d.]+", version), action
    assert len({action.partition("@")[0] for action, _ in used}) == len({action for action, _ in used})


def test_both_ends_of_versions_links_and_colab_are_tried_every_week():
    weekly = [name for name, job in JOBS.items() if "schedule" in job.get("if", "")]
    assert weekly == ["versions", "colab"]
    tried = {one["resolution"]: one["python"] for one in JOBS["versions"]["strategy"]["matrix"]["include"]}
    assert set(tried) == {"lowest-direct", "highest"}
    assert f'requires-python = ">={tried["lowest-direct"]}"' in (ROOT / "pyproject.toml").read_text()
    # whose test, of INT4's kernel, is skipped where it is missing
    assert ".ci/versions ${{ matrix.resolution }} 'triton>=" in JOBS["versions"]["steps"][-1]["run"]
    assert "book/*.ipynb" in JOBS["colab"]["steps"][-1]["run"], "every notebook, the index too"
    (links,) = [step for _, step in STEPS if step.get("run") == "make links"]
    assert "schedule" in links["if"]


@pytest.mark.skipif(not shutil.which("git"), reason="git is not installed")
def test_the_branch_for_colab_holds_first_cells_that_know_their_address(tmp_path):
    def git(*arguments: str, at: Path) -> str:
        return subprocess.run(["git", *arguments], cwd=at, check=True, capture_output=True, text=True).stdout

    checkout, far = tmp_path / "checkout", tmp_path / "far"
    shutil.copytree(ROOT / "book", checkout / "book", ignore=shutil.ignore_patterns("__pycache__"))
    far.mkdir()
    git("init", "-q", "--bare", at=far)
    git("init", "-q", at=checkout)
    git("remote", "add", "origin", "https://github.com/teacher/zoti", at=checkout)
    git("config", f"url.{far}.pushInsteadOf", "https://github.com/teacher/zoti", at=checkout)
    git("add", ".", at=checkout)
    git("-c", "user.name=a", "-c", "user.email=a@example.org", "commit", "-qm", "all", at=checkout)
    environment = {name: value for name, value in os.environ.items() if name != "ZOTI_REPOSITORY"}
    script = JOBS["notebooks-for-colab"]["steps"][-1]["run"]
    subprocess.run(["bash", "-euc", script], cwd=checkout, env=environment, check=True, capture_output=True)
    for chapter in (ROOT / "book").glob("*.ipynb"):
        pushed = git("show", f"colab:book/{chapter.name}", at=far)
        told = chapter.read_text().replace(r"REPOSITORY = \"\"", r"REPOSITORY = \"https://github.com/teacher/zoti\"")
        assert pushed == told != chapter.read_text()


@pytest.mark.parametrize("hook", HOOKS)
def test_a_commit_hook_has_nothing_to_say_about_what_is_committed(hook, tmp_path):
    program = Path(sys.executable).with_name(HOOKS[hook][0])
    if not program.exists():
        pytest.skip("needs what a developer has: pip install -e .[dev]")
    for folder in ("book", "zoti", "tests"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    kinds = {".ipynb"} if hook == "nbstripout" else {".py"} if hook == "ruff-format" else {".py", ".ipynb"}
    files = [file for file in tmp_path.rglob("*") if file.suffix in kinds]
    before = {file: file.read_bytes() for file in files}
    done = subprocess.run([program, *HOOKS[hook][1:], *files], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert {file: file.read_bytes() for file in files} == before
