"""What the documents name exists."""

import pathlib

import pytest

from tests.unit.documents import ROOT, problems

DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.name)
def test_all_that_a_document_names_exists(document: pathlib.Path) -> None:
    assert problems(document) == []


PLANTED = {
    "`drafthouse/no_such.py`": "drafthouse/no_such.py",
    "`verifier/engine.py` and `no_such.py`": "no_such.py",
    "`drafthouse/wire/`, `nowhere/`": "nowhere/",
    "[here](no_such.md)": "no_such.md",
    "[here](#no-such-heading)": "#no-such-heading",
    "`drafthouse.policy.no_such`": "drafthouse.policy.no_such",
    "`drafthouse.policy.growth.NoSuch`": "drafthouse.policy.growth.NoSuch",
    "`verifier.no_such_key: 1`": "verifier.no_such_key",
    "`make no-such`": "make no-such",
    "`drafthouse no-such`": "drafthouse no-such",
    "`bench load --no-such`": "drafthouse bench load --no-such",
    "`--no-such FILE`": "--no-such",
    "`python -m tests.no_such`": "python -m tests.no_such",
    "    make serve && .venv/bin/drafthouse serve --no-such=1": "drafthouse serve --no-such",
    "    drafthouse bench load --quick \\\n        --no-such    # continued": "drafthouse bench load --no-such",
    "    python -m pytest tests/unit/no_such.py": "tests/unit/no_such.py",
    "```\npython -m tests.chaos --no-such\n```": "tests.chaos --no-such",
}

GOOD = """# A heading: of its own

See [above](#a-heading-of-its-own), `drafthouse/noise.py`, `choose.py`, `policy/growth.py`, `k8s/overlays/*`, `docs/*.md`, `mine.yaml`.
`drafthouse.policy.growth`, `tests.chaos`, `verifier.drain_s: 5`, `target.parallel: 4`, `/v1/models`, `bench load --record FILE`, `--quick`.

    .venv/bin/drafthouse simulate --verifiers 1 --no-drain    # `drafthouse` alone, and kubectl create namespace drafthouse
    kubectl create namespace drafthouse; make chaos ARGS="--seed 1"
"""


@pytest.mark.parametrize("text", PLANTED, ids=lambda text: PLANTED[text])
def test_a_planted_name_is_found(text: str, tmp_path: pathlib.Path) -> None:
    document = tmp_path / "page.md"
    document.write_text(f"Good words.\n\n{text}\n", encoding="utf-8")
    (found,) = problems(document)
    assert found.split(": ")[1] == PLANTED[text]
    assert int(found.split(":")[1]) >= 3


def test_good_names_pass(tmp_path: pathlib.Path) -> None:
    document = tmp_path / "page.md"
    document.write_text(GOOD, encoding="utf-8")
    assert problems(document) == []
