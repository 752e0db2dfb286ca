"""Published weights: a folder with a generator, its critic and its density ratio, and the checksum of every file.

    pretrained/eurosat64/
        README.md                           the model card
        SHA256SUMS                          of the files below, as sha256sum -c reads it
        generator/model.safetensors         the weights
        generator/config.json               the network's sizes, and what it was trained on
        critic/...  density_ratio/...       likewise; both may be absent

`model_uri=pretrained/eurosat64` names the generator, and with it its critic; `calibration=pretrained/eurosat64` the
density ratio. Nothing is read whose checksum is another.
"""

import hashlib
import re
from pathlib import Path

from common.errors import InputError

NETWORKS = ("generator", "critic", "density_ratio")
SUMS = "SHA256SUMS"


def is_published(address: str) -> bool:
    """Whether the address is a folder of published weights."""
    try:
        return (Path(address) / SUMS).is_file()
    except (OSError, ValueError):  # a name that is too long, or holds a null character
        return False


def published_networks(address: str) -> list[str]:
    """The names of the networks in a folder of published weights, sorted. InputError for damaged checksums."""
    return sorted({file.split("/")[0] for file in checksums(Path(address))})


def network_address(address: str, name: str) -> str:
    """The folder of one of NETWORKS in published weights, its files checked; any other address as it is.

    Raises InputError where the network is not there, or a file is not the published one.
    """
    if not is_published(address):
        return address
    there = published_networks(address)
    if name not in there:
        raise InputError(f"model {address}: no {name} is published there, but {', '.join(there)}")
    folder, sums = Path(address), checksums(Path(address))
    files = {file: digest for file, digest in sums.items() if file.startswith(f"{name}/")}
    for file, digest in files.items():
        try:
            found = hashlib.sha256((folder / file).read_bytes()).hexdigest()
        except OSError as error:
            raise InputError(
                f"model {address}: {file} cannot be read ({error.strerror}); get the folder again"
            ) from None
        if found != digest:
            raise InputError(
                f"model {address}: {file} is not the published file (SHA-256 {found[:8]}..., not {digest[:8]}...); get "
                "the folder again"
            )
    return str(folder / name)


def checksums(folder: Path) -> dict[str, str]:
    """File, relative to the folder -> SHA-256 (hex) that its SHA256SUMS gives; InputError for another kind of line."""
    found = {}
    try:
        lines = (folder / SUMS).read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"model {folder}: {SUMS} cannot be read ({error}); get the folder again") from None
    for line in lines:
        match = re.fullmatch(r"([0-9a-f]{64}) [ *]([\w/.-]+)", line)
        if match is None or ".." in match[2] or match[2].startswith("/"):
            raise InputError(
                f"model {folder}: {SUMS} has the line {line[:80]!r}, which is no checksum; get the folder again"
            )
        found[match[2]] = match[1]
    return found


def write_checksums(folder: Path) -> None:
    """Write SHA256SUMS of the files of all networks in `folder`."""
    files = sorted(file for name in NETWORKS for file in (folder / name).glob("*") if file.is_file())
    lines = [
        f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.relative_to(folder).as_posix()}\n" for file in files
    ]
    (folder / SUMS).write_text("".join(lines))
