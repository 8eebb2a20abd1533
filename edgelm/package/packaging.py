"""The story of `edgelm package`: name the subject, refuse early, write every package asked for, judge the built app."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from edgelm.errors import ArtifactError
from edgelm.package import android, app_checks, assets, build_file, cpp, golden, ios, output, page_alignment
from edgelm.package.subject import Subject
from edgelm.report import Check, Report, Table

OnStage = Callable[[str, int, int], None]

_MODULE_PATH = re.compile(r"(:[A-Za-z0-9_.-]+)+")


@dataclass(frozen=True)
class Wanted:
    """Where packages go; None for those that are not wanted.

    Attributes:
        android: Folder of the Gradle module.
        into: Assets folder of an app.
        cpp: Folder of the C++ example.
        ios: Folder of the iOS file set.
        engine: Gradle path of the module that holds the engine already.
        force: Replace another model, or a package that was changed.
    """

    android: Path | None = None
    into: Path | None = None
    cpp: Path | None = None
    ios: Path | None = None
    engine: str | None = None
    force: bool = False


@dataclass(frozen=True)
class Built:
    """What of an app is checked; None or empty where it is not."""

    apk: Path | None = None
    native_libs: tuple[Path, ...] = ()
    build_file: Path | None = None


@dataclass(frozen=True)
class Written:
    """One package.

    Attributes:
        place: Folder or file.
        note: What has to be known of it.
        lines: (file of the user's project, lines to add to it).
    """

    place: Path
    note: str
    lines: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class _Plan:
    """A folder about to be written."""

    kind: output.Kind
    files: Mapping[str, bytes]
    written: Written


def write(subject: Subject, wanted: Wanted, on_stage: OnStage) -> tuple[Written, ...]:
    """Writes every package, each all or nothing, after all of them were made and found writable.

    Args:
        subject: What is packaged.
        wanted: Where to.
        on_stage: Progress: stage, done, total.

    Raises:
        EdgeLMError: Something of the user's would be lost, the runtime cannot run the model, or a place cannot be written.
    """
    _check_engine(wanted.engine)
    _check_places(subject, wanted)
    planned = _planned(subject, wanted, on_stage)
    for plan in planned:
        output.write(plan.written.place, plan.files, plan.kind, force=wanted.force)
    copied = (_copied(subject, wanted.into, force=wanted.force),) if wanted.into else ()
    return (*(plan.written for plan in planned), *copied)


def judge(subject: Subject, built: Built, on_stage: OnStage) -> Report:
    """Holds the model, and what was built with it, against what devices ask for.

    Args:
        subject: What is packaged.
        built: What to look at.
        on_stage: Progress: stage, done, total.

    Raises:
        ArtifactError: A file cannot be read.
    """
    on_stage("checking", 0, 0)
    checks = [*app_checks.size_checks(subject.artifact.tflite, subject.profile, subject.artifact.name)]
    if built.build_file:
        checks += build_file.checks(built.build_file)
    if built.apk:
        checks += app_checks.apk_checks(built.apk, subject.artifact.tflite, str(subject.artifact.path))
    libraries = page_alignment.find(built.native_libs) if built.native_libs else ()
    if built.apk and built.apk not in built.native_libs:
        libraries += page_alignment.found_in(built.apk)
    tables: tuple[Table, ...] = ()
    if shipped := [library for library in libraries if library.shipped]:
        checks += app_checks.abi_checks(shipped)
    if libraries:
        checks += page_alignment.checks(libraries)
        tables = (page_alignment.table(libraries),)
    return Report(
        title=f"{subject.artifact.name} for {subject.profile.name}",
        facts=_facts(subject),
        checks=tuple(checks),
        tables=tables,
        next_commands=_next_commands(subject, built, checks),
        words=("nothing found that stands in its way", "not ready to ship"),
    )


def _planned(subject: Subject, wanted: Wanted, on_stage: OnStage) -> tuple[_Plan, ...]:
    """Every folder with its content: what cannot be made is found before anything is written."""
    plans = []
    if wanted.android:
        on_stage("computing the golden vectors", 0, 0)
        vectors = golden.compute(subject.artifact, subject.profile.runtime.name)
        plans.append(_Plan("android", android.files(subject, vectors, wanted.engine), _module(subject, wanted.android)))
    if wanted.cpp:
        on_stage("computing the continuation to compare with", 0, 0)
        told = (("build and run", cpp.commands(subject, wanted.cpp)),)
        plans.append(_Plan("cpp", cpp.files(subject), Written(wanted.cpp, "", told)))
    if wanted.ios:
        note = "not built: there is no Xcode to prove the Swift file with"
        plans.append(_Plan("ios", ios.files(subject), Written(wanted.ios, note, ())))
    return tuple(plans)


def _module(subject: Subject, folder: Path) -> Written:
    told = android.lines(subject, folder)
    return Written(
        folder,
        "Gradle module; its Java is proven on a JVM, its Gradle build needs Google's Maven",
        (("settings.gradle.kts", told.settings), ("app/build.gradle.kts", told.app), ("in the app, on a background thread", told.usage)),
    )


def _copied(subject: Subject, folder: Path, *, force: bool) -> Written:
    place = assets.copy(subject, folder, force=force)
    dependency = f'    implementation("{android.dependency(subject)}")'
    return Written(place, "", (("app/build.gradle.kts", android.app_lines(dependency)),))


def _check_places(subject: Subject, wanted: Wanted) -> None:
    places: dict[output.Kind, Path | None] = {"android": wanted.android, "cpp": wanted.cpp, "ios": wanted.ios}
    folders = [output.resolved(folder) for folder in (*places.values(), wanted.into) if folder]
    for one in folders:
        if any(one in (other, *other.parents) for other in folders if other is not one):
            raise ArtifactError(f"{one} is asked for twice, or holds another folder that is asked for", allowed="separate folders")
    for kind, folder in places.items():
        if folder:
            output.check_replaceable(folder, kind, force=wanted.force)
    if wanted.into:
        assets.check_free(subject, wanted.into, force=wanted.force)


def _check_engine(engine: str | None) -> None:
    if engine is not None and not _MODULE_PATH.fullmatch(engine):
        raise ArtifactError(f"--engine {engine!r} is no Gradle path", allowed="such as :keyboard or :libs:keyboard")


def _facts(subject: Subject) -> tuple[tuple[str, str], ...]:
    return (
        ("recipe", ": ".join(subject.facts.recipe)),
        ("device", f"{subject.profile.device.title}; runtime {subject.profile.runtime.key}"),
    )


def _next_commands(subject: Subject, built: Built, checks: list[Check]) -> tuple[str, ...]:
    if any(check.passed is False for check in checks) or built.apk:
        return ()
    return (f"edgelm package {subject.artifact.path} --apk app/build/outputs/apk/release/app-release.apk: is the built app right?",)
