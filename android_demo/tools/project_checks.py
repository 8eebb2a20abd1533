"""What can be said of the Gradle project without running Gradle: names that are used are defined, and what belongs together agrees.

Each check takes the folder of the Gradle project and gives the problems it found, one line each; none is good.
"""

from __future__ import annotations

import re
import tomllib
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from project import ANDROID, ROOT, app_settings, catalog, java_files

Check = Callable[[Path], list[str]]
AGP_NEEDS_GRADLE = {"8.13": "8.13"}
"""Android Gradle plugin -> oldest Gradle; https://developer.android.com/build/releases/gradle-plugin#updating-gradle"""
AGP_KNOWS_API = {"8.13": 36}
"""Android Gradle plugin -> newest API level it compiles against."""
RUNNER = "app/src/main/java/dev/edgelm/demo/litert/LiteRtRunner.java"
RESOURCE = re.compile(r"(?<![\w:/])@\+?(?P<type>\w+)/(?P<name>[\w.]+)")
COMMENT_OR_STRING = re.compile(r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\])*"|\'(?:\\.|[^\'\\])*\'', re.DOTALL)


def all_problems(root: Path = ROOT) -> list[str]:
    """What all checks find."""
    return [problem for check in CHECKS for problem in check(root)]


def aliases(root: Path) -> list[str]:
    """Every alias of the build scripts is in the version catalog, every entry of it is used, and versions stand nowhere else."""
    tables = catalog(root)
    used = {alias for script in _scripts(root) for alias in re.findall(r"\blibs\.([\w.]+?)(?:\.get\(\)|\b(?![\w.]))", _code(script))}
    defined = {f"versions.{_accessor(name)}" for name in tables["versions"]}
    defined |= {f"plugins.{_accessor(name)}" for name in tables["plugins"]} | {_accessor(name) for name in tables["libraries"]}
    references = {
        str(entry["version"]["ref"])
        for kind in ("libraries", "plugins")
        for entry in tables[kind].values()
        if isinstance(entry["version"], dict)
    }
    problems = [f"alias libs.{alias} is not in the version catalog" for alias in sorted(used - defined)]
    problems += [f"version {name} is referred to, but not defined" for name in sorted(references - set(tables["versions"]))]
    unused = {name for name in defined - used if not (name.startswith("versions.") and name.removeprefix("versions.") in references)}
    problems += [f"catalog entry {name} is never used" for name in sorted(unused)]
    for script in _scripts(root):
        problems += [
            f"{script.name} has a version of its own: {found}" for found in re.findall(r'"[\w.-]+:[\w.-]+:[\d.]+"', script.read_text())
        ]
    return problems


def versions(root: Path) -> list[str]:
    """API levels, Android Gradle plugin and Gradle fit together; the runtime is the one edgelm proves models on."""
    defined = catalog(root)["versions"]
    levels = [int(str(defined[name])) for name in ("minSdk", "targetSdk", "compileSdk")]
    problems = [] if levels == sorted(levels) else [f"minSdk <= targetSdk <= compileSdk does not hold: {levels}"]
    plugin = ".".join(str(defined["agp"]).split(".")[:2])
    if levels[-1] > AGP_KNOWS_API.get(plugin, 0):
        problems.append(f"the Android Gradle plugin {plugin} does not know API {levels[-1]}")
    wrapper = dict(
        line.split("=", 1) for line in (root / "gradle/wrapper/gradle-wrapper.properties").read_text().splitlines() if "=" in line
    )
    gradle = re.fullmatch(r"https\\://services\.gradle\.org/distributions/gradle-([\d.]+)-bin\.zip", wrapper.get("distributionUrl", ""))
    if gradle is None or gradle[1] != AGP_NEEDS_GRADLE.get(plugin):
        problems.append(f"the wrapper's Gradle is not the one that the Android Gradle plugin {plugin} needs")
    if not re.fullmatch(r"[0-9a-f]{64}", wrapper.get("distributionSha256Sum", "")):
        problems.append("the wrapper does not pin the SHA-256 of Gradle")
    task = (root / "build.gradle.kts").read_text()
    if gradle is None or f'"{gradle[1]}"' not in task or f'"{wrapper.get("distributionSha256Sum")}"' not in task:
        problems.append("the wrapper task makes another wrapper than gradle-wrapper.properties describes")
    adapter = re.search(r'VERSION = "([\d.]+)"', (root / RUNNER).read_text())
    if adapter is None or adapter[1] != defined["litert"]:
        problems.append(f"LiteRtRunner.VERSION is not the catalog's litert {defined['litert']}")
    edgelm = tomllib.loads((ROOT.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    own = {app_settings(root).version_name, _strings(root / "app/src/main/res/values/strings.xml")["version"], edgelm["version"]}
    if len(own) > 1:
        problems.append(f"versionName, the string version and edgelm's own version differ: {sorted(own)}")
    if f"ai-edge-litert=={defined['litert']}" not in edgelm["dependencies"]:
        problems.append(f"the catalog's litert {defined['litert']} is not edgelm's pin of ai-edge-litert")
    return problems


def modules(root: Path) -> list[str]:
    """Every included module has a build script, and modules depend on included ones only."""
    included = set(re.findall(r'"(:\w+)"', _code(root / "settings.gradle.kts")))
    problems = [
        f"module {name} has no build.gradle.kts" for name in sorted(included) if not (root / name[1:] / "build.gradle.kts").is_file()
    ]
    wanted = {name for script in _scripts(root) for name in re.findall(r'project\("(:\w+)"\)', _code(script))}
    return problems + [f"module {name} is used, but not included" for name in sorted(wanted - included)]


def components(root: Path) -> list[str]:
    """Every component of the manifest is a class of the right kind, every such class is declared, and what is exported is guarded."""
    manifest = ElementTree.parse(root / "app/src/main/AndroidManifest.xml").getroot()
    parents = dict(_classes(root))
    problems, declared = [], set()
    for tag, base in (("application", "Application"), ("activity", "Activity"), ("instrumentation", "Instrumentation")):
        for element in manifest.iter(tag):
            name = str(element.get(f"{ANDROID}name"))
            declared.add(name.removeprefix("."))
            if base not in _ancestors(name.removeprefix("."), parents):
                problems.append(f"manifest: {name} is no {base}")
    for element in manifest.iter("activity"):
        launcher = "android.intent.category.LAUNCHER" in {category.get(f"{ANDROID}name") for category in element.iter("category")}
        if element.get(f"{ANDROID}exported") is None:
            problems.append(f"manifest: {element.get(f'{ANDROID}name')} does not say whether it is exported")
        if element.get(f"{ANDROID}exported") == "true" and not launcher and element.get(f"{ANDROID}permission") is None:
            problems.append(f"manifest: {element.get(f'{ANDROID}name')} is exported without a permission")
    kinds = ("Activity", "Instrumentation", "Application")
    abstract = _abstract(root)
    undeclared = {name for name in parents if set(kinds) & _ancestors(name, parents) and name not in abstract} - declared
    return problems + [f"manifest: {name} is not declared" for name in sorted(undeclared)]


def resources(root: Path) -> list[str]:
    """Every resource that XML or Java refers to exists, and every resource is used."""
    main = root / "app/src/main"
    defined = set(_defined_resources(main / "res"))
    used = set()
    for file in (*sorted((main / "res").rglob("*.xml")), main / "AndroidManifest.xml"):
        text = file.read_text(encoding="utf-8")
        used |= {(found["type"], found["name"].replace(".", "_")) for found in RESOURCE.finditer(text)}
        used |= {("style", name.replace(".", "_")) for name in re.findall(r'parent="([\w.]+)"', text)}
    for file in java_files(main / "java"):
        used |= set(re.findall(r"(?<!android\.)\bR\.(\w+)\.(\w+)", file.read_text(encoding="utf-8")))
    problems = [f"resource @{kind}/{name} does not exist" for kind, name in sorted(used - defined)]
    return problems + [f"resource @{kind}/{name} is never used" for kind, name in sorted(defined - used) if kind != "id"]


def strings(root: Path) -> list[str]:
    """Every language has the strings of the default one with the same arguments, and Java gives each string the arguments it has."""
    values = {file.parent.name: _strings(file) for file in sorted((root / "app/src/main/res").glob("values*/strings.xml"))}
    default = values.pop("values")
    problems = []
    for folder, translated in values.items():
        problems += [f"{folder}: string {name} is missing" for name in sorted(default.keys() - translated.keys())]
        problems += [f"{folder}: string {name} is new there" for name in sorted(translated.keys() - default.keys())]
        common = default.keys() & translated.keys()
        problems += [
            f"{folder}: string {name} has other arguments"
            for name in sorted(common)
            if _arguments(default[name]) != _arguments(translated[name])
        ]
    for file in java_files(root / "app/src/main/java"):
        for name, given in _string_calls(_without_literals(file.read_text(encoding="utf-8"))):
            if name in default and len(_arguments(default[name])) != given:
                problems.append(f"{file.name}: string {name} has {len(_arguments(default[name]))} arguments, {given} are given")
    return problems


def accessibility(root: Path) -> list[str]:
    """Fields have labels, progress bars descriptions, texts scale with the user's setting, and nothing is too small to touch."""
    problems = []
    for file in sorted((root / "app/src/main/res").glob("layout*/*.xml")):
        elements = list(ElementTree.parse(file).getroot().iter())
        labelled = {str(element.get(f"{ANDROID}labelFor")).split("/")[-1] for element in elements if element.get(f"{ANDROID}labelFor")}
        for element in elements:
            name = str(element.get(f"{ANDROID}id", element.tag)).split("/")[-1]
            if element.tag == "EditText" and name not in labelled:
                problems.append(f"{file.name}: field {name} has no label")
            if element.tag in ("ImageView", "ImageButton", "ProgressBar") and not element.get(f"{ANDROID}contentDescription"):
                problems.append(f"{file.name}: {name} has no content description")
            text = element.get(f"{ANDROID}text", "")
            if text and not text.startswith("@string/"):
                problems.append(f"{file.name}: {name} has a text that is no string resource")
    for file in sorted((root / "app/src/main/res").rglob("*.xml")):
        problems += [
            f"{file.name}: a text size in {found}"
            for found in re.findall(r'textSize[^>]*?[">]\d+(dp|px)', file.read_text(encoding="utf-8"))
        ]
    return problems


def java(root: Path) -> list[str]:
    """Newer Android calls only behind `Platform`, each behind its own level; packages as the folders say."""
    problems = []
    for source in (root / "app/src/main/java", root / "core/src/main/java"):
        for file in java_files(source):
            text = _without_literals(file.read_text(encoding="utf-8"))
            package = ".".join(file.parent.relative_to(source).parts)
            if f"package {package};" not in text:
                problems.append(f"{file.name}: its package is not its folder's")
            if file.name != "Platform.java" and not re.fullmatch(r"Api\d\d\.java", file.name) and re.search(r"\bApi\d\d\.", text):
                problems.append(f"{file.name}: calls a class of one API level past Platform")
            for level, guard in re.findall(r"SDK_INT >= (\d+)[^;]*?\bApi(\d\d)\.", text):
                if level != guard:
                    problems.append(f"{file.name}: Api{guard} is called from API {level} on")
    return problems


CHECKS: tuple[Check, ...] = (aliases, versions, modules, components, resources, strings, accessibility, java)


def _scripts(root: Path) -> list[Path]:
    return sorted((root / "settings.gradle.kts", *root.glob("*/build.gradle.kts"), root / "build.gradle.kts"))


def _code(script: Path) -> str:
    return re.sub(r"//[^\n]*|/\*.*?\*/", "", script.read_text(encoding="utf-8"), flags=re.DOTALL)


def _accessor(name: str) -> str:
    """How build scripts spell a catalog's key."""
    return re.sub(r"[-_]", ".", name)


def _classes(root: Path) -> Iterator[tuple[str, str]]:
    for file in java_files(root / "app/src/main/java"):
        yield from re.findall(r"\bclass (\w+)(?:<.*>)? extends (\w+)", file.read_text(encoding="utf-8"))


def _abstract(root: Path) -> set[str]:
    return {
        name
        for file in java_files(root / "app/src/main/java")
        for name in re.findall(r"\babstract class (\w+)", file.read_text(encoding="utf-8"))
    }


def _ancestors(name: str, parents: dict[str, str]) -> set[str]:
    found: set[str] = set()
    while name in parents:
        name = parents[name]
        found.add(name)
    return found


def _defined_resources(folder: Path) -> Iterator[tuple[str, str]]:
    for file in sorted(folder.rglob("*.xml")):
        kind = file.parent.name.split("-")[0]
        text = file.read_text(encoding="utf-8")
        if kind == "values":
            for element in ElementTree.fromstring(text):
                yield ("array" if element.tag.endswith("array") else element.tag, str(element.get("name")).replace(".", "_"))
        else:
            yield kind, file.stem
        yield from (("id", name) for name in re.findall(r"@\+id/(\w+)", text))


def _strings(file: Path) -> dict[str, str]:
    return {
        str(element.get("name")): "".join(element.itertext()) for element in ElementTree.parse(file).getroot() if element.tag == "string"
    }


def _arguments(text: str) -> Counter[str]:
    return Counter(set(re.findall(r"%(\d+\$[sd])", text)))


def _without_literals(text: str) -> str:
    return COMMENT_OR_STRING.sub(lambda found: '""' if found[0][0] in "\"'" else "", text)


def _string_calls(text: str) -> Iterable[tuple[str, int]]:
    """Strings with the number of arguments each `getString(R.string.name, ...)` gives."""
    for found in re.finditer(r"getString\(\s*R\.string\.(\w+)", text):
        depth, commas = 1, 0
        for character in text[found.end() :]:
            depth += (character == "(") - (character == ")")
            commas += character == "," and depth == 1
            if depth == 0:
                break
        yield found[1], commas
