"""The demo's APK without Gradle and without Google's Maven: the same sources, manifest, resources and settings, by Debian's build tools.

LiteRT's library is not among Debian's packages: the app is compiled against stubs of the few methods it calls, and the stubs stay out of
the APK. Such an APK installs and opens its screens, and says that its runtime is missing. It proves what can be proven here.
"""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Sequence
from pathlib import Path

from build_tools import BRIEF, BuildTools, OnStage, run
from project import MAIN, ROOT, app_settings, java_files

ALIGNMENT = 4
"""Bytes; what Android and the Gradle plugin align uncompressed entries to."""
KEY = ("-alias", "androiddebugkey", "-storepass", "android", "-keypass", "android")
MADE = ("assets", "classes", "generated", "resources.zip", "java8.jar", "desugared.jar", "unaligned.apk", "aligned.apk", "edgelm-demo.apk")
ZIP_DATE = (1981, 1, 1, 0, 0, 0)


def build(tools: BuildTools, models: Sequence[tuple[str, Path]], golden: Path, work: Path, on_stage: OnStage) -> Path:
    """Builds a signed APK.

    Args:
        tools: Fetched.
        models: Name in the app and .tflite of each model.
        golden: What `GoldenInstrumentation` compares with.
        work: Folder for everything made, emptied first but for the signing key.
        on_stage: Hears each step.

    Returns:
        The APK.

    Raises:
        EdgeLMError: A tool refused something; its message says what.
    """
    for made in MADE:
        _remove(work / made)
    work.mkdir(parents=True, exist_ok=True)
    on_stage("copying models and golden into the assets")
    _assets(models, golden, work / "assets")
    on_stage("linking manifest and resources against Android 13")
    _link(tools, work)
    on_stage("compiling core and app against Android 6 and the stubs")
    classes = _compile(tools, work)
    on_stage("making the .dex file")
    settings = app_settings()
    desugared = _without_lambdas(tools, classes, work)
    tools.dx("--dex", f"--min-sdk-version={settings.min_sdk}", f"--output={work / 'classes.dex'}", desugared)
    _add(work / "unaligned.apk", "classes.dex", work / "classes.dex")
    on_stage("aligning and signing")
    tools.native("zipalign", "-f", "-p", str(ALIGNMENT), work / "unaligned.apk", work / "aligned.apk")
    _sign(tools, work / "aligned.apk", work / "edgelm-demo.apk", work / "debug.keystore", settings.min_sdk)
    return work / "edgelm-demo.apk"


def _assets(models: Sequence[tuple[str, Path]], golden: Path, assets: Path) -> None:
    (assets / "models").mkdir(parents=True)
    (assets / "golden").mkdir()
    for name, model in models:
        shutil.copyfile(model, assets / "models" / f"{name}.tflite")
    shutil.copyfile(golden, assets / "golden" / golden.name)


def _link(tools: BuildTools, work: Path) -> None:
    """Makes unaligned.apk with manifest, resources and assets, and R.java."""
    settings = app_settings()
    source = (MAIN / "AndroidManifest.xml").read_text(encoding="utf-8")
    manifest = work / "generated" / "AndroidManifest.xml"
    manifest.parent.mkdir(parents=True)
    # Gradle takes the package from `namespace`; aapt2 alone wants it in the manifest.
    manifest.write_text(source.replace("<manifest ", f'<manifest package="{settings.namespace}" ', 1), encoding="utf-8")
    tools.native("aapt2", "compile", "--dir", MAIN / "res", "-o", work / "resources.zip")
    tools.native(
        *("aapt2", "link", "-I", tools.platform_resources, "--manifest", manifest, "--java", work / "generated"),
        *("-A", work / "assets", "-0", ".tflite", "-o", work / "unaligned.apk", work / "resources.zip"),
        *("--min-sdk-version", str(settings.min_sdk), "--target-sdk-version", str(settings.target_sdk)),
        *("--version-code", str(settings.version_code), "--version-name", settings.version_name),
    )


def _compile(tools: BuildTools, work: Path) -> list[Path]:
    """Compiles in the order that proves the most.

    The classes named after an API level (`Api29`) are compiled against stubs of what that level added, ahead of Android 6; everything
    else against Android 6 alone, so that a newer call outside those classes does not compile.

    Returns:
        The folders of classes that go into the APK.
    """
    java = MAIN / "java"
    levels = sorted(java.rglob("Api[0-9][0-9].java"))
    rest = [file for file in java_files(java, work / "generated") if file not in levels]
    core, litert, newer, app = (work / "classes" / name for name in ("core", "litert-stubs", "platform-stubs", "app"))
    android = tools.platform_classes
    _javac(java_files(ROOT / "core/src/main/java"), core)
    _javac(java_files(ROOT / "litert-stubs"), litert)
    _javac(java_files(ROOT / "platform-stubs"), newer, android)
    _javac(levels, app, newer, android)
    _javac(rest, app, app, core, litert, android)
    return [core, app]


def _javac(sources: Sequence[Path], target: Path, *classpath: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    path = ":".join(str(part) for part in classpath)
    options = ("-encoding", "UTF-8", "-Xlint:all,-options", "-Werror", "-implicit:none", "-proc:none")
    run(["javac", *(f"-J{option}" for option in BRIEF), "--release", "8", *options, "-cp", path, "-d", target, *sources])


def _without_lambdas(tools: BuildTools, classes: Sequence[Path], work: Path) -> Path:
    """Turns lambdas into classes, as D8 does in the Gradle build: dx leaves them to LambdaMetafactory, which no Android has.

    ProGuard's backport to Java 7 does it. It wants Java 8's own classes: they are taken from the JDK's table of old signatures.
    """
    java8, desugared = work / "java8.jar", work / "desugared.jar"
    _java8_signatures(java8)
    inputs = [part for folder in classes for part in ("-injars", str(folder))]
    stubs = [work / "classes" / name for name in ("litert-stubs", "platform-stubs")]
    libraries = [java8, Path(f"{tools.platform_classes}(!java/**)"), *stubs]
    outputs = ["-outjars", desugared, *(part for library in libraries for part in ("-libraryjars", library))]
    keep = ("-dontshrink", "-dontoptimize", "-dontobfuscate", "-keepattributes", "*", "-dontnote")
    # The platform's classes mention others that are not public; the stubs of newer levels stand for parts of them.
    quiet = ("-dontwarn", "android.**,java.**,javax.**,org.apache.**,org.xmlpull.**", "-ignorewarnings")
    tools.proguard(*inputs, *outputs, *keep, *quiet, "-target", "1.7")
    return desugared


def _java8_signatures(jar: Path) -> None:
    """Makes a library of Java 8's java.base out of the JDK's ct.sym, marked as class files of Java 8, the newest ProGuard reads."""
    home = Path(str(shutil.which("javac"))).resolve().parents[1]
    with zipfile.ZipFile(home / "lib/ct.sym") as symbols, zipfile.ZipFile(jar, "w") as library:
        for entry in symbols.infolist():
            releases, _, rest = entry.filename.partition("/")
            module, _, name = rest.partition("/")
            if "8" in releases and module == "java.base" and name.endswith(".sig") and name != "module-info.sig":
                data = symbols.read(entry)
                library.writestr(name.removesuffix(".sig") + ".class", data[:6] + (52).to_bytes(2, "big") + data[8:])


def _add(apk: Path, name: str, file: Path) -> None:
    entry = zipfile.ZipInfo(name, ZIP_DATE)
    entry.compress_type = zipfile.ZIP_DEFLATED
    with zipfile.ZipFile(apk, "a") as archive:
        archive.writestr(entry, file.read_bytes())


def _sign(tools: BuildTools, unsigned: Path, signed: Path, keystore: Path, min_sdk: int) -> None:
    """Signs with a debug key, made once, so that a newer build installs over an older one."""
    if not keystore.exists():
        name = ("-dname", "CN=Android Debug,O=Android,C=US", "-keyalg", "RSA", "-keysize", "2048", "-validity", "10000")
        run(["keytool", "-genkeypair", "-keystore", keystore, *KEY, *name])
    secrets = ("--ks", keystore, "--ks-pass", "pass:android", "--key-pass", "pass:android", "--ks-key-alias", "androiddebugkey")
    tools.apksigner("sign", *secrets, "--min-sdk-version", str(min_sdk), "--out", signed, unsigned)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
