"""Reports and directives of two versions: fields that came and went, and classes that one side lacks."""

import inspect
import pickle
import sys
import typing
from collections.abc import Iterator
from dataclasses import is_dataclass
from types import ModuleType

import pytest

from drafthouse.errors import WireError
from drafthouse.wire import client_shares, membership, reports, totals
from drafthouse.wire.membership import Directive, Route
from drafthouse.wire.named_fields import NamedFields
from drafthouse.wire.reports import Report
from tests.unit.reports import drafter_report, gateway_report, verifier_report

HEAD = """
from dataclasses import dataclass, field
from drafthouse.wire.named_fields import NamedFields
"""
OLDER = """
@dataclass(slots=True)
class Counts(NamedFields):
    steps: int = 0
    moves: int = 1

@dataclass(frozen=True, slots=True, kw_only=True)
class Base(NamedFields):
    name: str

@dataclass(frozen=True, slots=True, kw_only=True)
class Told(Base):
    counts: Counts
    kept: tuple[Counts, ...] = ()
"""
NEWER = """
@dataclass(frozen=True, slots=True)
class Pace(NamedFields):
    seconds: float

@dataclass(slots=True)
class Counts(NamedFields):
    passes: int = 7
    steps: int = 0
    extra: Pace | None = None

@dataclass(frozen=True, slots=True, kw_only=True)
class Base(NamedFields):
    where: str = "here"
    name: str

@dataclass(frozen=True, slots=True, kw_only=True)
class Told(Base):
    counts: Counts
    kept: tuple[Counts, ...] = ()
    pace: Pace | None = None
    marks: list[int] = field(default_factory=lambda: [3])
"""


@pytest.fixture
def version(monkeypatch):
    """Makes the module `told` one of a version, as the other process of an upgrade has it."""

    def become(text: str) -> ModuleType:
        module = ModuleType("told")
        monkeypatch.setitem(sys.modules, "told", module)
        exec(HEAD + text, module.__dict__)
        return module

    return become


def test_what_a_newer_version_sends_more_is_left_aside_and_what_it_lacks_has_its_default(version):
    newer = version(NEWER)
    counts = newer.Counts(passes=9, steps=4, extra=newer.Pace(0.5))
    data = pickle.dumps(newer.Told(name="a", counts=counts, kept=(counts, counts), pace=newer.Pace(1.0)))
    older = version(OLDER)
    told = pickle.loads(data)
    assert told == older.Told(name="a", counts=older.Counts(4, 1), kept=(older.Counts(4, 1), older.Counts(4, 1)))


def test_what_an_older_version_lacks_has_its_default(version):
    older = version(OLDER)
    data = pickle.dumps(older.Told(name="a", counts=older.Counts(4, 2), kept=(older.Counts(),)))
    newer = version(NEWER)
    told = pickle.loads(data)
    assert told == newer.Told(name="a", counts=newer.Counts(7, 4), kept=(newer.Counts(),))
    assert (told.where, told.marks) == ("here", [3])


def test_what_is_missing_and_has_no_default_is_named(version):
    data = pickle.dumps(version(OLDER).Base(name="a"))
    version(OLDER.replace("    name: str\n", "    name: str\n    port: int\n"))
    with pytest.raises(WireError, match=r"Base\.port is missing, and has no default"):
        pickle.loads(data)


def test_a_class_that_only_the_sender_has_is_named_where_it_is_needed(version):
    newer = version(NEWER)
    data = pickle.dumps(newer.Told(name="a", counts=newer.Counts(), pace=newer.Pace(1.0)))
    version(NEWER.replace("class Pace", "class Speed").replace("Pace |", "object |"))
    with pytest.raises(WireError, match=r"Told\.pace is a told\.Pace, which this version does not have"):
        pickle.loads(data)


@pytest.mark.parametrize("held", [lambda each: (each,), lambda each: {"a": [each]}])
def test_a_class_that_only_the_sender_has_is_named_within_containers(version, held):
    newer = version(NEWER)
    data = pickle.dumps(newer.Told(name="a", counts=newer.Counts(), kept=held(newer.Pace(1.0))))
    version(NEWER.replace("class Pace", "class Speed").replace("Pace |", "object |"))
    with pytest.raises(WireError, match=r"Told\.kept is a told\.Pace, which this version does not have"):
        pickle.loads(data)


def test_names_stand_once_in_a_pickle():
    routes = [Route(f"v{i}", f"v{i}:1", "f", 0, 8) for i in range(100)]
    assert pickle.dumps(routes).count(b"prompt_token_seconds") == 1


@pytest.mark.parametrize("report", [gateway_report(), verifier_report(), drafter_report()], ids=lambda report: report.role)
def test_what_is_sent_comes_whole(report):
    assert pickle.loads(pickle.dumps(report)) == report


def test_all_that_travels_by_ray_is_pickled_by_name():
    found = set(_classes(Report)) | set(_classes(Directive))
    assert {Directive, Route, totals.VerifyTotals, client_shares.Amounts} <= found
    for module in (client_shares, membership, reports, totals):
        found |= {kind for _, kind in inspect.getmembers(module, is_dataclass) if kind.__module__ == module.__name__}
    assert [kind.__name__ for kind in found if not issubclass(kind, NamedFields)] == []


def _classes(kind: object) -> Iterator[type]:
    """Dataclasses in a type, at any depth."""
    if isinstance(kind, type) and is_dataclass(kind):
        yield kind
        for inner in typing.get_type_hints(kind).values():
            yield from _classes(inner)
    for inner in typing.get_args(kind):
        yield from _classes(inner)
