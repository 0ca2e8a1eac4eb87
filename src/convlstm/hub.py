"""Models as folders of the Hugging Face Hub: `config.json`, `model.safetensors` and `README.md`.

A folder is written and read without any further package. Only the transfer from and to the Hub needs
`huggingface_hub`. Nothing in a folder is executed.

`snapshot` needs the base package alone, so that layers can be loaded without the extra `nowcast`.
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convlstm.errors import ConfigError, DependencyError, OutputError, WeightsError, install
from convlstm.files import check_writable, write_atomic
from convlstm.nowcast.models import LICENSE, shipped_model
from convlstm.weights.checkpoint import CONFIG_FILE, MODEL_FILE, load_model, model_file

if TYPE_CHECKING:
    from convlstm.nowcast.nowcaster import Nowcaster

README = "README.md"
FILES = (CONFIG_FILE, MODEL_FILE, README)
"""The files of a folder."""

_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+", re.ASCII)
_LICENSE = re.compile(r"[a-z0-9][a-z0-9.-]*")


def save_folder(
    folder: str | Path,
    model: str | Path | None = None,
    *,
    license: str | None = None,
    repository: str = "owner/name",
) -> Path:
    """Write a model as a folder in the layout of the Hugging Face Hub; needs no package of the Hub.

    `model.safetensors` is a copy of the model file. `config.json` has its options, its data pipeline and its digest.
    `README.md` is the card of `convlstm model card`, with licence, tags and scores as YAML in front.

    Args:
        folder: The folder to write: a new one, or one with hidden entries only, such as an empty clone of git.
        model: A model file or run folder; None for the model of radar rain in this package.
        license: Licence of the weights as the Hub names it, such as `cc-by-4.0`. None takes that of the model in this
            package, and leaves it out for any other model.
        repository: Name of the repository for the example in the card.

    Returns:
        The folder.

    Raises:
        WeightsError: if the model is no intact model file.
        ConfigError: if the licence or the repository is no name of this form.
        OutputError: if the folder has files, or cannot be written.

    Example:
        >>> import tempfile
        >>> folder = save_folder(Path(tempfile.mkdtemp()) / "rain")
        >>> sorted(path.name for path in folder.iterdir())
        ['README.md', 'config.json', 'model.safetensors']
        >>> load_model(folder).spec.thresholds
        (0.1, 0.5, 1.0, 2.0, 5.0, 10.0)
    """
    from convlstm.nowcast.hub_card import hub_card, hub_config

    folder = Path(folder)
    source = model_file(shipped_model() if model is None else model)
    load_model(source if model is None else model)  # checks a folder as a whole
    _check_name("repository", repository, _REPOSITORY, "owner/name")
    _check_empty(folder)

    if license is not None:
        _check_name("license", license, _LICENSE, "apache-2.0")

    def write(place: Path) -> None:
        # all three from one copy, because a training may replace the model meanwhile
        place.mkdir(exist_ok=True)
        copy = write_atomic(place / MODEL_FILE, lambda draft: shutil.copyfile(source, draft))
        content = load_model(copy)
        is_shipped = content.digest == load_model(shipped_model()).digest
        config = json.dumps(hub_config(content), indent=2, sort_keys=True, ensure_ascii=False) + "\n"
        card = hub_card(content, source, repository, LICENSE if license is None and is_shipped else license)
        write_atomic(place / CONFIG_FILE, lambda draft: draft.write_text(config, encoding="utf-8"))
        write_atomic(place / README, lambda draft: draft.write_text(card, encoding="utf-8"))

    is_clone = folder.is_dir() and any(folder.iterdir())  # its hidden entries stay
    if not is_clone:
        return write_atomic(folder, write)
    try:
        write(folder)
    except BaseException:
        for name in FILES:
            (folder / name).unlink(missing_ok=True)
        raise
    return folder


def snapshot(source: str | Path, *, revision: str | None = None, token: str | None = None) -> Path:
    """Return the path of a model: that of a file or folder, or of the downloaded copy of a repository of the Hub.

    Every command, and `load` of every framework, reads the path. Only the three files of the layout are downloaded.

    Args:
        source: A model file, a folder, or a repository `owner/name`. A path that exists is used as it is.
        revision: Branch, tag or commit of the repository; None takes the main branch.
        token: Token of the Hub for a private repository; None takes that of `hf auth login`.

    Returns:
        The path.

    Raises:
        WeightsError: if there is no such path and no such repository, or the Hub does not answer.
        ConfigError: if a revision is passed for a path.
        DependencyError: if a repository is named and `huggingface_hub` is not installed.

    Example:
        >>> from convlstm.nowcast.models import shipped_model
        >>> snapshot(shipped_model()).name
        'rain.safetensors'
    """
    path = Path(source)
    if path.exists():
        if revision is not None:
            raise ConfigError("revision", expected="None for a path", received=revision, hint="Leave `revision` out.")
        return path
    if not _REPOSITORY.fullmatch(str(source)):
        raise WeightsError(
            str(source),
            expected="a model file, a folder, or a repository such as owner/name",
            received="nothing there",
            hint="Correct the path or the name.",
        )
    hub = _load_hub()
    try:
        return Path(hub.snapshot_download(str(source), revision=revision, token=token, allow_patterns=list(FILES)))
    except Exception as error:  # its HTTP library, which differs by version, has errors of its own
        raise WeightsError(
            str(source),
            expected="a folder that exists, or a repository of the Hub that can be read",
            received=_first_line(error),
            hint="Correct the name, pass `token`, or check the connection.",
        ) from error


def from_pretrained(
    source: str | Path,
    *,
    framework: str = "torch",
    threads: int | None = None,
    precision: str = "float32",
    device: str | None = None,
    revision: str | None = None,
    token: str | None = None,
) -> Nowcaster:
    """Load a forecaster for forecasts from a folder or a repository of the Hub.

    For a layer, or a forecaster to be trained further, pass the result of `snapshot` to `load` of a framework.

    Args:
        source: As in `snapshot`.
        framework: As in `Nowcaster.load`.
        threads: As in `Nowcaster.load`.
        precision: As in `Nowcaster.load`.
        device: As in `Nowcaster.load`.
        revision: As in `snapshot`.
        token: As in `snapshot`.

    Returns:
        The model.

    Raises:
        WeightsError: if the path or repository cannot be read, or has no intact forecaster of `convlstm train`.
        ConfigError: if the framework, the precision or the device does not exist.
        DependencyError: if the framework is not installed, or `huggingface_hub` for a repository.

    Example:
        >>> import tempfile
        >>> folder = save_folder(Path(tempfile.mkdtemp()) / "rain")
        >>> from_pretrained(folder, threads=1).pipeline.units
        'mm/h'
    """
    from convlstm.nowcast.nowcaster import Nowcaster

    path = snapshot(source, revision=revision, token=token)
    return Nowcaster.load(path, framework=framework, threads=threads, precision=precision, device=device)


def push_to_hub(
    repository: str,
    model: str | Path | None = None,
    *,
    license: str | None = None,
    private: bool | None = None,
    message: str = "Upload the model",
    token: str | None = None,
) -> str:
    """Upload a model to a repository of the Hub, which is made if it does not exist.

    A folder with the three files of the layout is uploaded as it is, so that its card may be edited before. Any other
    model is first written by `save_folder`.

    Args:
        repository: Name of the repository, `owner/name`.
        model: A folder of the layout, a model file or a run folder; None for the model in this package.
        license: As in `save_folder`; None for a folder of the layout.
        private: Whether a new repository is private; None takes the default of its owner.
        message: Message of the commit.
        token: Token of the Hub; None takes that of `hf auth login`.

    Returns:
        The address of the commit.

    Raises:
        DependencyError: if `huggingface_hub` is not installed.
        WeightsError: if the model is no intact model file.
        ConfigError: if the repository or the licence is no such name, or a licence is passed for a folder of the
            layout.
        OutputError: if the Hub refuses the upload, or does not answer.

    Example:
        `push_to_hub("owner/rain", "my-run", license="cc-by-4.0")` returns the address of the commit.
    """
    hub = _load_hub()
    _check_name("repository", repository, _REPOSITORY, "owner/name")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "model" if model is None else Path(model)
        if not all((folder / name).is_file() for name in FILES):
            folder = save_folder(Path(scratch) / "model", model, license=license, repository=repository)
        else:
            load_model(folder)  # raises an error for a damaged one
            if license is not None:
                raise ConfigError(
                    "license",
                    expected=f"None for a folder with a {README}",
                    received=license,
                    hint=f"Write the licence into {folder / README}.",
                )
        try:
            api = hub.HfApi(token=token)
            api.create_repo(repository, private=private, exist_ok=True)
            commit = api.upload_folder(
                repo_id=repository, folder_path=folder, allow_patterns=list(FILES), commit_message=message
            )
        except Exception as error:  # its HTTP library, which differs by version, has errors of its own
            raise OutputError(
                repository,
                expected="a repository of the Hub that can be written",
                received=_first_line(error),
                hint="Run `hf auth login` or pass `token`, and check the name and the connection.",
            ) from error
    return str(commit.commit_url)


def _check_empty(folder: Path) -> None:
    """Raise an error for a folder with files, which could be a run or a card that somebody wrote."""
    check_writable(folder, folder=True)
    files = sorted(path.name for path in folder.iterdir() if not path.name.startswith(".")) if folder.is_dir() else []
    if files:
        raise OutputError(
            str(folder),
            expected="a new folder",
            received=f"a folder with {files[0]}",
            hint="Choose another folder, or delete its files.",
        )


def _check_name(argument: str, value: object, form: re.Pattern[str], example: str) -> None:
    if not isinstance(value, str) or not form.fullmatch(value):
        raise ConfigError(
            argument, expected=f"a name such as {example}", received=repr(value)[:60], hint="Correct the name."
        )


def _load_hub() -> Any:
    """Import `huggingface_hub`, or raise an error that names the extra that installs it."""
    try:
        import huggingface_hub
    except ImportError as error:
        raise DependencyError(
            "huggingface_hub",
            expected="the package installed for a repository of the Hub",
            received=f"no module {error.name!r}",
            hint=f"Run: {install('hub')}. Folders need no package.",
        ) from error
    return huggingface_hub


def _first_line(error: Exception) -> str:
    """Return the type and the first line of an error, at most 200 characters."""
    text = " ".join(str(error).split("\n\n")[0].split())
    return f"{type(error).__name__}: {text}"[:200]
