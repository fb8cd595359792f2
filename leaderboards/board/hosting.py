"""Write the files that host a board: checks of pull requests, a site that is published, and a README.

The files lie in ``leaderboards/hosting``. What is in double braces is filled in; everything else is written as it is.
"""

from __future__ import annotations

from importlib import metadata, resources
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from harness.errors import MoemixError
from harness.files import write_text
from leaderboards.board.folder import ATTRIBUTES, BoardFolder

# host → file in the board's repository → template
FILES = {
    "github": {
        ".github/workflows/check.yml": "github-check.yml",
        ".github/workflows/publish.yml": "github-publish.yml",
        ".github/pull_request_template.md": "pull-request.md",
    },
    "gitlab": {".gitlab-ci.yml": "gitlab-ci.yml", ".gitlab/merge_request_templates/Default.md": "pull-request.md"},
    "space": {"Dockerfile": "space.Dockerfile"},
}
# What checking and building a board imports. moemix itself also depends on torch and more, which no board needs.
NEEDED = ("click", "filelock", "numpy", "packaging", "pydantic", "pyyaml", "safetensors", "scipy", "tabulate", "tqdm")
_OWNERS = {
    "github": "The owner of a submission is the login that opens its pull request.",
    "gitlab": "The owner of a submission is the holder of the SSH key that signs it (`--sign`).",
    "space": "The owner of a submission is the holder of the SSH key that signs it (`--sign`).",
}
_SUBMIT = {"github": "--owner YOUR_LOGIN", "gitlab": "--sign ~/.ssh/id_ed25519", "space": "--sign ~/.ssh/id_ed25519"}
_SETUP = {
    "github": "In the repository's settings: *Pages*, source *GitHub Actions*; *Branches*, protect the main branch and"
    " require the check `check`. The checks run with the main branch's rules, whatever a pull request changes.",
    "gitlab": "In the project's settings: *CI/CD*, *CI/CD configuration file*: `.gitlab-ci.yml@GROUP/ANOTHER_PROJECT`,"
    " a copy of `.gitlab-ci.yml` in a project that only you write to; otherwise a merge request could change its own"
    " check. Protect the main branch. A merge request from a fork runs its pipeline in the fork, which proves nothing:"
    " before you merge it, run a pipeline here (*Pipelines*, *Run pipeline* in the merge request).",
    "space": "Pull requests are checked by hand. Hugging Face runs nothing when one is opened; its webhooks would need"
    " a server of yours that holds a token and runs the programs of strangers. Before you merge pull request N, run"
    " this in a clone of the Space (the exit status is 0 if every check passes):\n\n```console\n"
    "$ git fetch origin refs/pr/N:refs/review/N && moemix board review . --base main --head refs/review/N\n```\n\n"
    "Merging it builds the Space, and so the site, again.",
}


def hosted_rules(host: str) -> dict[str, object]:
    """Return the rules of a new board that strangers write to."""
    return {"owners": "login" if host == "github" else "ssh", "require": ["execution"]}


def write_hosting(board: BoardFolder, host: str, install: str | None) -> list[Path]:
    """Write the files of a host into a board's folder, and return their paths; files that are there are kept.

    Raises:
        MoemixError: the board's rules let anyone change the submissions of others.
    """
    if board.board.rules.owners == "anyone":
        raise MoemixError(
            "this board lets anyone replace and withdraw submissions", where=str(board.path / "board.yaml"),
            hint="set `rules: {owners: login}` (GitHub), or `rules: {owners: ssh}`, first",
        )  # fmt: skip
    fields = {
        "title": board.board.title,
        "description": board.board.description,
        "suites": ", ".join(suite.key for suite in board.board.suites),
        "owners": _OWNERS[host],
        "submit": _SUBMIT[host],
        "setup": _SETUP[host],
        "head": "---\ntitle: Board\nsdk: docker\napp_port: 7860\n---\n" if host == "space" else "",
    }
    texts = {name: _template(template) for name, template in FILES[host].items()}
    texts["README.md"] = _template("README.md")
    for name, value in fields.items():
        texts["README.md"] = texts["README.md"].replace(f"{{{{{name}}}}}", value)
    texts["requirements.txt"] = requirements(install)
    texts[".gitattributes"] = ATTRIBUTES
    written = []
    for name, text in texts.items():
        path = board.path / name
        if not path.exists():
            write_text(path, text)
            written.append(path)
    return written


def requirements(install: str | None) -> str:
    """Return a `requirements.txt` for `pip install --no-deps`: the versions that are installed here, without torch."""
    versions: dict[str, str] = {}
    waiting = list(NEEDED)
    while waiting:
        name = canonicalize_name(waiting.pop())
        if name not in versions:
            versions[name] = metadata.version(name)
            needed = map(Requirement, metadata.requires(name) or ())
            waiting += [one.name for one in needed if one.marker is None or one.marker.evaluate({"extra": ""})]
    lines = [f"{name}=={version}" for name, version in sorted(versions.items())]
    own = install or f"moemix=={metadata.version('moemix')}"
    return "\n".join(["# All that the checks need: pip install --no-deps -r requirements.txt", *lines, own]) + "\n"


def _template(name: str) -> str:
    return resources.files("leaderboards").joinpath("hosting", name).read_text(encoding="utf-8")
