"""A Gradle library module that an Android app includes: model, engine, typed facade, and a test that compares the device with Python.

The module is written, not built: the Android Gradle plugin and AARs come from Google's Maven. Its Java is plain Java 8, compiled and run on
a JVM by edgelm's own tests; the Kotlin DSL lines are few.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgelm.package import engine, facade, golden_java, templates
from edgelm.package.app_checks import ABI
from edgelm.package.golden import Golden
from edgelm.package.subject import Subject

COMPILE_SDK, MIN_SDK = 35, 26
GRADLE_PLUGIN = "8.13.2"
ABIS = (ABI, "x86_64")

DEPENDENCIES = {"ai-edge-litert": "com.google.ai.edge.litert:litert", "tflite-runtime": "org.tensorflow:tensorflow-lite"}
"""Runtime of the profile -> the Android library of the same version; both have `org.tensorflow.lite.Interpreter`."""

_JAVA, _TEST_JAVA = "src/main/java", "src/androidTest/java"


@dataclass(frozen=True)
class Lines:
    """What the user adds to the app's project.

    Attributes:
        settings: For settings.gradle.kts.
        app: For app/build.gradle.kts.
        usage: Java that uses the model.
    """

    settings: str
    app: str
    usage: str


def files(subject: Subject, golden: Golden, engine_module: str | None = None) -> dict[str, bytes]:
    """The module: relative path -> content; equal inputs give equal bytes.

    Args:
        subject: What is packaged.
        golden: What Python computed with it.
        engine_module: Gradle path of a module that holds the engine already, such as `:keyboard`; None puts the engine into this one.

    Raises:
        UnsupportedModelError: See `facade.java`.
        MissingDependencyError: This installation has no Android sources.
    """
    values = subject.values() | _gradle_values(subject, engine_module)
    folder = subject.java_package.replace(".", "/")
    own = {
        f"{_JAVA}/{folder}/{subject.class_name}.java": facade.java(subject),
        f"{_TEST_JAVA}/{folder}/{subject.class_name}Golden.java": golden_java.java(subject, golden),
        f"{_TEST_JAVA}/{folder}/{subject.class_name}GoldenTest.java": templates.fill("android/GoldenTest.java", values),
        f"src/main/assets/{subject.model_file}": subject.artifact.tflite,
        "src/main/AndroidManifest.xml": templates.fill("android/AndroidManifest.xml", values),
        **{name: templates.fill(f"android/{name}", values) for name in ("build.gradle.kts", "consumer-rules.pro", "README.md")},
    }
    sources = {} if engine_module else engine.engine_sources() | engine.adapter_sources(subject.profile.runtime.version)
    return own | {f"{_JAVA}/{path}": content for path, content in sources.items()}


def lines(subject: Subject, folder: Path | None = None) -> Lines:
    """What the user adds to the app's project.

    Args:
        subject: What is packaged.
        folder: Where the module lies; None for `NAME` below the project's root.
    """
    place = subject.name if folder is None else folder.absolute().as_posix()
    literal = '"' + place.replace("\\", "\\\\").replace('"', '\\"').replace("$", "\\$") + '"'
    settings = f'include(":{subject.name}")\nproject(":{subject.name}").projectDir = file({literal})'
    return Lines(settings, app_lines(f'    implementation(project(":{subject.name}"))'), facade.usage(subject))


def app_lines(dependency: str) -> str:
    """The lines for app/build.gradle.kts: the app, not the module, decides what is compressed and for which ABIs.

    Args:
        dependency: A line of the `dependencies` block.
    """
    abis = ", ".join(f'"{abi}"' for abi in ABIS)
    return (
        "android {\n"
        f"    defaultConfig {{ ndk {{ abiFilters += listOf({abis}) }} }}\n"
        '    androidResources { noCompress += "tflite" }\n'
        "}\n"
        f"dependencies {{\n{dependency}\n}}"
    )


def dependency(subject: Subject) -> str:
    """Maven coordinates of the profile's runtime, such as `com.google.ai.edge.litert:litert:2.1.0`."""
    runtime = subject.profile.runtime
    return f"{DEPENDENCIES[runtime.name]}:{runtime.version}"


def _gradle_values(subject: Subject, engine_module: str | None) -> dict[str, str]:
    told = lines(subject)
    own = f'implementation("{dependency(subject)}")'
    return {
        "COMPILE_SDK": str(COMPILE_SDK),
        "MIN_SDK": str(MIN_SDK),
        "GRADLE_PLUGIN": GRADLE_PLUGIN,
        "ABIS": ", ".join(f'"{abi}"' for abi in ABIS),
        "DEPENDENCY": dependency(subject),
        "DEPENDENCY_LINE": f'api(project("{engine_module}"))' if engine_module else own,
        "SETTINGS_LINES": told.settings,
        "APP_LINES": told.app,
        "USAGE": told.usage,
    }
