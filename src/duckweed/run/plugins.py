"""Plug-ins: Python files of the user's own that register a wire, a merge rule, an inner optimizer or a
learner.

A plug-in is code, so it comes only from a file that the user of this machine has named. A run folder
remembers path and hash of its plug-ins (local.json), which is not enough to run them: a folder may have
come from somebody else. Their hash must also be among those that were named on this machine before.
"""

import sys
import types
from collections.abc import Iterable
from pathlib import Path

import msgspec
from blake3 import blake3
from platformdirs import user_cache_path

from duckweed.run.folder import FolderError, RunFolder, write_atomically


class PluginError(ValueError):
    """A plug-in is missing, has changed, is not trusted, or fails; the message names the file."""


class Plugin(msgspec.Struct, frozen=True):
    """A plug-in as it was loaded."""

    path: str
    """Where the file lies, absolute."""
    blake3: str
    """Hash of its bytes, 64 hex digits."""


_loaded: dict[str, Plugin] = {}  # of this process, by path


def load(paths: Iterable[Path | str]) -> tuple[Plugin, ...]:
    """Load files that the user has named, each once in a process. A file that runs in this process
    already, as its script or as an imported module, is not run again. Raises PluginError."""
    found = tuple(_load(_file(Path(path))) for path in paths)
    for plugin in found:
        write_atomically(_named(plugin), plugin.path.encode())
    return found


def loaded() -> list[str]:
    """The files that this process has loaded."""
    return list(_loaded)


def load_of(folder: RunFolder, paths: Iterable[Path | str] = ()) -> tuple[Plugin, ...]:
    """Load the plug-ins that a run folder remembers, to be called before its specification is read.

    paths: files that the user has named now. Each takes the place of a remembered one of the same file
    name, which may have moved or changed, and is remembered. Raises PluginError.
    """
    given = load(paths)
    names = {Path(plugin.path).name for plugin in given}
    before = _remembered(folder)
    kept = tuple(_again(p, folder) for p in before if Path(p.path).name not in names)
    if kept + given != before:
        remember(folder, kept + given)
    return kept + given


def remember(folder: RunFolder, plugins: Iterable[Plugin]) -> None:
    """Note in a run folder which plug-ins the run needs on this machine."""
    folder.note({"plugins": [msgspec.to_builtins(plugin) for plugin in plugins]})


def _remembered(folder: RunFolder) -> tuple[Plugin, ...]:
    try:
        return msgspec.convert(folder.local().get("plugins", ()), tuple[Plugin, ...])
    except msgspec.ValidationError as error:
        raise FolderError(f"{folder.path / 'local.json'}: plugins: {error}") from error


def _again(plugin: Plugin, folder: RunFolder) -> Plugin:
    """Load a plug-in that a run folder remembers, if it is the same and was named here before."""
    path = Path(plugin.path)
    if not path.is_file():
        raise PluginError(
            f"{folder.path} needs the plug-in {path}, which is not there any more; say where it is "
            f"now: --plugin FILE (its name must still be {path.name})"
        )
    now, code = _file(path)
    if now.blake3 != plugin.blake3:
        raise PluginError(
            f"{folder.path} was trained with another version of the plug-in {path}; put the old file "
            f"back, or take the new one: --plugin {path}"
        )
    if not _named(plugin).is_file():
        raise PluginError(
            f"{folder.path} asks to run the code in {path}, which was never named on this machine. If "
            f"you trust it: --plugin {path}"
        )
    return _load((now, code))


def _named(plugin: Plugin) -> Path:
    """The file that says that a user of this machine has named the plug-in."""
    return user_cache_path("duckweed", appauthor=False) / "plugins" / plugin.blake3


def _file(path: Path) -> tuple[Plugin, bytes]:
    try:
        code = path.read_bytes()
    except OSError as error:
        raise PluginError(
            f"plug-in {path}: {error.strerror}; expected a Python file that lies on this machine"
        ) from error
    return Plugin(str(path.resolve()), blake3(code).hexdigest()), code


def _load(file: tuple[Plugin, bytes]) -> Plugin:
    plugin, code = file
    before = _loaded.get(plugin.path)
    if before is not None and before != plugin:
        raise PluginError(
            f"{plugin.path} has changed since this process loaded it; start a new process (in a "
            "notebook: restart the kernel)"
        )
    if before is None:
        if not _runs_already(plugin.path):
            _execute(plugin.path, code)
        _loaded[plugin.path] = plugin
    return plugin


def _runs_already(path: str) -> bool:
    files = (getattr(module, "__file__", None) for module in list(sys.modules.values()))
    return any(file and str(Path(file).resolve()) == path for file in files)


def _execute(path: str, code: bytes) -> None:
    module = types.ModuleType(f"duckweed_plugin_{len(_loaded)}")
    module.__file__ = path
    sys.modules[module.__name__] = module  # where msgspec and dataclasses look annotations up
    try:
        exec(compile(code, path, "exec"), module.__dict__)
    except (Exception, SystemExit) as error:
        del sys.modules[module.__name__]
        line = _line(error, path)
        raise PluginError(
            f"the plug-in {path} fails{f' in line {line}' if line else ''}: "
            f"{type(error).__name__}: {error}"
        ) from error


def _line(error: BaseException, path: str) -> int | None:
    """The last line of the file that an error passed through."""
    if isinstance(error, SyntaxError) and error.filename == path:
        return error.lineno
    found, trace = None, error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == path:
            found = trace.tb_lineno
        trace = trace.tb_next
    return found
