"""Renders a kustomize folder: with the real tool where there is one, and with a small one of our own everywhere.

Promises: the same objects from both (a test holds them to it wherever `kubectl` or `kustomize` is
installed). The small one knows what k8s/ uses and refuses the rest by name: `resources`, `images` with
`newName` and `newTag`, and `patches` from files, which are JSON patches (add, replace, remove, test)
with a target, or merge patches of custom resources, whose lists kustomize replaces whole.
"""

import copy
import pathlib
import shutil
import subprocess
from typing import Any

import yaml

Object = dict[str, Any]

CUSTOM_GROUPS = ("ray.io/", "monitoring.coreos.com/")
"""Kustomize has no schema of these, so that it merges their lists as JSON merge patches do."""


class RenderError(Exception):
    """Names the file and what is wrong with it."""


def real_command() -> list[str] | None:
    """The installed tool, or None."""
    if shutil.which("kubectl"):
        return ["kubectl", "kustomize"]
    return ["kustomize", "build"] if shutil.which("kustomize") else None


def render_with_tool(folder: pathlib.Path, command: list[str]) -> list[Object]:
    done = subprocess.run([*command, str(folder)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RenderError(done.stderr.strip())
    return list(yaml.load_all(done.stdout, Loader=yaml.CSafeLoader))


def render(folder: pathlib.Path) -> list[Object]:
    """Raises RenderError."""
    path = folder / "kustomization.yaml"
    kustomization = _read(path)[0]
    unknown = kustomization.keys() - {"apiVersion", "kind", "resources", "images", "patches"}
    if unknown:
        raise RenderError(f"{path}: not known here: {', '.join(sorted(unknown))}")
    objects: list[Object] = []
    for resource in kustomization.get("resources", []):
        source = (folder / resource).resolve()
        objects += render(source) if source.is_dir() else _read(source)
    _refuse_doubles(path, objects)
    for patch in kustomization.get("patches", []):
        objects = _patched(folder, patch, objects)
    for image in kustomization.get("images", []):
        _set_image(objects, image)
    return objects


def _read(path: pathlib.Path) -> list[Any]:
    """Documents without shared parts, which aliases would leave in them."""
    try:
        documents = list(yaml.load_all(path.read_text(encoding="utf-8"), Loader=yaml.CSafeLoader))
    except (OSError, yaml.YAMLError) as error:
        raise RenderError(f"{path}: {error}") from error
    return [_unshared(document) for document in documents if document is not None]


def _unshared(node: Any) -> Any:
    if isinstance(node, dict):
        return {key: _unshared(value) for key, value in node.items()}
    return [_unshared(value) for value in node] if isinstance(node, list) else node


def _name(item: Object) -> str:
    return f"{item['kind']} {item['metadata']['name']}"


def _refuse_doubles(path: pathlib.Path, objects: list[Object]) -> None:
    names = [_name(item) for item in objects]
    if double := next((name for name in names if names.count(name) > 1), None):
        raise RenderError(f"{path}: {double} is there twice")


def _patched(folder: pathlib.Path, patch: Object, objects: list[Object]) -> list[Object]:
    path = folder / patch["path"]
    content = _read(path)[0]
    wanted = patch["target"] if isinstance(content, list) else {"kind": content["kind"], "name": content["metadata"]["name"]}
    index = next((i for i, item in enumerate(objects) if _name(item) == f"{wanted['kind']} {wanted['name']}"), None)
    if index is None:
        raise RenderError(f"{path}: there is no {wanted['kind']} {wanted['name']} to patch")
    target = objects[index]
    if isinstance(content, list):
        changed = _json_patched(path, content, target)
    elif target["apiVersion"].startswith(CUSTOM_GROUPS):
        changed = _merged(target, content)
    else:
        raise RenderError(f"{path}: merge patches of {wanted['kind']} are not known here; write a JSON patch")
    return [*objects[:index], changed, *objects[index + 1 :]]


def _merged(target: Any, patch: Any) -> Any:
    """RFC 7396."""
    if not (isinstance(target, dict) and isinstance(patch, dict)):
        return patch
    result = dict(target)
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = _merged(result.get(key), value)
    return result


def _json_patched(path: pathlib.Path, operations: list[Object], target: Object) -> Object:
    """RFC 6902, without copy and move."""
    result = copy.deepcopy(target)
    for operation in operations:
        try:
            _apply(result, operation)
        except (KeyError, IndexError, ValueError, TypeError) as error:
            raise RenderError(f"{path}: {operation['op']} {operation['path']}: {error!r}") from error
    return result


def _apply(root: Object, operation: Object) -> None:
    *parents, last = (part.replace("~1", "/").replace("~0", "~") for part in operation["path"].split("/")[1:])
    node: Any = root
    for part in parents:
        node = node[int(part)] if isinstance(node, list) else node[part]
    key: Any = last
    if isinstance(node, list):
        key = len(node) if last == "-" else int(last)
    value = copy.deepcopy(operation.get("value"))
    match operation["op"]:
        case "add" if isinstance(node, list):
            node.insert(key, value)
        case "add":
            node[key] = value
        case "replace":
            node[key]  # must be there
            node[key] = value
        case "remove":
            del node[key]
        case "test":
            if node[key] != value:
                raise ValueError(f"it is {node[key]!r}, not {value!r}")
        case other:
            raise ValueError(f"the operation {other} is not known here")


def _set_image(node: Any, image: Object) -> None:
    """In every list named containers, wherever it is."""
    if isinstance(node, list):
        for item in node:
            _set_image(item, image)
    elif isinstance(node, dict):
        for key, value in node.items():
            if key == "containers":
                for container in value:
                    if container["image"].partition(":")[0] == image["name"]:
                        container["image"] = f"{image.get('newName', image['name'])}:{image['newTag']}"
            _set_image(value, image)
