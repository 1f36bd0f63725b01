"""Models by name: lists, fetches and verifies the files that models/manifest.json describes.

    python scripts/fetch_models.py                    what there is, what for, and whether it is here
    python scripts/fetch_models.py face_landmarker    fetch it and verify it
    python scripts/fetch_models.py --all              all whose licence restricts nothing
    python scripts/fetch_models.py --verify           compare what is here with the checksums

Exit status: 0 done; 1 something is damaged or did not come; 2 a licence is not accepted, or the command is wrong;
130 interrupted. A model appears under its name whole and verified or not at all. What came of it is kept beside it as
`.part` and continued next time.
"""

from __future__ import annotations

import argparse
import errno
import lzma
import os
import sys
import tarfile
import zipfile
import zlib
from contextlib import ExitStack
from io import FileIO
from pathlib import Path
from typing import IO, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from scripts.download import (
    BLOCK_BYTES,
    Content,
    FetchError,
    Progress,
    SourceFailed,
    append,
    claimed,
    fill,
    holds,
    readable,
    size_of,
)

FOLDER = Path(__file__).resolve().parent.parent / "models"
MANIFEST = FOLDER / "manifest.json"
URL = r"^https?://[!-~]+$"

State = Literal["present", "missing", "damaged"]


class LicenceRefused(FetchError):
    """A licence that restricts use was not accepted."""


class Archive(Content):
    """A zip or tar file, and the path of the one member to take out."""

    member: str = Field(min_length=1)


class Source(BaseModel):
    """An address of the model itself, or of an archive with the model in it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: str = Field(pattern=URL)
    unpack: Archive | None = None


class Note(BaseModel):
    """One text in both languages."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    en: str
    zh: str


class Model(Content):
    """What the manifest says of one file in models/. `shipped`: it comes with the repository."""

    file: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")
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
        if self.file.endswith(".part") or self.file in {"manifest.json", "README.md"}:
            raise ValueError(f"'{self.file}' is not a name for a model")
        return self


class Manifest(BaseModel):
    """The models by name."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[1]
    models: dict[str, Model]

    @model_validator(mode="after")
    def _files_differ(self) -> Manifest:
        if len({model.file.lower() for model in self.models.values()}) < len(self.models):
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
    """Whether `model` is in `folder`. Reads all of it."""
    path = folder / model.file
    if not path.is_file():
        return "missing"
    with path.open("rb", buffering=0) as file:
        return "present" if holds(file, model) else "damaged"


def part(model: Model, content: Content, folder: Path) -> Path:
    """Where what has come of `content` is kept. Its checksum is in the name, so that no other content gets mixed in."""
    return folder / f"{model.file}.{content.sha256[:8]}.part"


def fetch(model: Model, folder: Path, progress: Progress) -> None:
    """`model` into `folder`, verified, from the first of its sources that has it. Blocking.

    Another process that fetches the same is waited for. FetchError if no source has it or the disk does not take it.
    """
    for source in model.sources:
        try:
            return _fetch_from(source, model, folder, progress)
        except SourceFailed as error:
            progress.say(f"{source.url}: {error}")
        except OSError as error:
            raise FetchError(f"cannot write into {folder}: {_remedy(error)}") from error
    raise FetchError(f"no source gave it. Try again later, or put {model.file} into {folder} by hand")


def _fetch_from(source: Source, model: Model, folder: Path, progress: Progress) -> None:
    content = source.unpack or model
    folder.mkdir(parents=True, exist_ok=True)
    with claimed(part(model, content, folder), progress) as file:
        if state(model, folder) == "present":  # another process was faster
            file.truncate(0)
            return
        fill(file, content, source.url, progress)
        if source.unpack is None:
            _settle(file, folder / model.file, progress)
            return
        with claimed(part(model, model, folder), progress) as taken:
            _take_out(source.unpack.member, file, taken, model)
            _settle(taken, folder / model.file, progress)
        file.truncate(0)


def _settle(file: FileIO, path: Path, progress: Progress) -> None:
    """Gives `file` its name. What had it stays as `.old`: it may be weights that somebody brought."""
    os.fsync(file.fileno())
    if path.exists():
        path.replace(f"{path}.old")
        progress.say(f"what was there is now {path.name}.old")
    Path(str(file.name)).replace(path)


def _take_out(member: str, archive: FileIO, into: FileIO, model: Model) -> None:
    """`member` of the verified `archive` into `into`, and nothing else anywhere. SourceFailed if it is not `model`."""
    into.truncate(0)
    try:
        with ExitStack() as stack:
            source = _opened(archive, member, stack)
            while size_of(into) <= model.bytes and (block := source.read(BLOCK_BYTES)):
                append(into, block)
    except (LookupError, RuntimeError, EOFError, zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError):
        raise SourceFailed(f"its archive does not give '{member}'") from None
    if not holds(into, model):
        into.truncate(0)
        raise SourceFailed(f"'{member}' of its archive has other bytes than the manifest says")


def _opened(archive: FileIO, member: str, stack: ExitStack) -> IO[bytes]:
    """The file `member` of a tar or zip file; links lead to what is in the archive. LookupError if it is not there."""
    archive.seek(0)
    if not tarfile.is_tarfile(archive):  # asked first: a tar file that ends in a zip file passes for one
        return stack.enter_context(stack.enter_context(zipfile.ZipFile(archive)).open(member))
    archive.seek(0)
    file = stack.enter_context(tarfile.open(fileobj=archive)).extractfile(member)  # noqa: SIM115
    if file is None:
        raise LookupError(member)
    return stack.enter_context(file)


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
    found, kept = state(model, folder), part(model, model, folder)
    if found == "missing" and kept.is_file():
        return f"missing, {100 * kept.stat().st_size // model.bytes} % are kept"
    return "damaged or another file" if found == "damaged" else found


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
    return f"python scripts/fetch_models.py {name}" if model.sources else f"git checkout -- models/{model.file}"


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
    print(f"{name}: here and verified, {folder / model.file}")
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
        kept = ", ".join(path.name for path in args.models_dir.glob("*.part"))
        what = f"what came is kept in {kept}; the same command goes on from there" if kept else "nothing came"
        print(f"\ninterrupted: {what}", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
