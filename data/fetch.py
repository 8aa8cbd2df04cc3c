"""Published data sets by name: what to download, whether it is the right thing, and where it goes."""

import json
import shutil
from pathlib import Path

import pooch

from data import catalog, d4rl, exorl, unzip
from data.download import Remote, download, place, stage

EXORL_SHA256 = {
    ("cartpole", "proto"): "0384fa7c899777150335b0d602c6b3d945cdc856adbd81341d1eb8848854a042",
    ("cheetah", "proto"): "f18e42150977604b6244a5cdf97aa3e2d078700ab60440050b12b98f60dd00d8",
    ("quadruped", "proto"): "b9d613aaaadfd8bf75a9a9a52e3e61f27a473d5ab9b1bcd39c25056ab23234a5",
    ("walker", "proto"): "a34d0edf628d4824d90d1bf6cb69b2d97bf0c753a09a04bffc3deab130277b42",
}
"""Of the zip files. ExoRL publishes none; these are what others recorded who downloaded them: ethanluoyc/corax,
corax/datasets/tfds/exorl/checksums.tsv."""
HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
RECORD = "fetched.json"
"""Beside `buffer`, once all is unpacked: the archive that it came from, and how many episodes that held."""


def exorl_remote(domain: str, dataset: str) -> Remote:
    """The archive of a released data set."""
    url = catalog.DOWNLOAD_URL.format(domain=domain, dataset=dataset)
    key = (domain, dataset)
    return Remote(url, EXORL_SHA256.get(key), catalog.DOWNLOAD_BYTES.get(key, 0))


def recorded(folder: Path) -> dict[str, str | int]:
    """What is known of the archive that a data set came from: url, sha256, bytes, episodes; empty if nothing is."""
    try:
        found = json.loads((folder / RECORD).read_text())
        return {
            key: type_(found[key]) for key, type_ in (("url", str), ("sha256", str), ("bytes", int), ("episodes", int))
        }
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return {}


def fetch_exorl(domain: str, dataset: str, data_dir: Path, *, again: bool = False) -> str:
    """Download and unpack a released data set into <data_dir>/<domain>/<dataset>; return what was done, one line.

    An archive that lies there already, as ExoRL's own script leaves it, is unpacked without asking the network.

    Args:
      again: do so, too, where there are episodes already; those that differ from the archive's are replaced.

    Raises what data.download.download and data.unzip.unzip raise; FileExistsError when the folder holds episodes that
    were collected, not downloaded.
    """
    folder = data_dir / domain / dataset
    if (folder / catalog.ORIGIN).exists():
        raise FileExistsError(
            f"{folder}: holds episodes collected here, expected a folder for those of ExoRL; "
            "move it, or fetch into another --data_dir"
        )
    remote = exorl_remote(domain, dataset)
    archive = folder.with_name(remote.name)
    building = stage(archive)
    files, record = exorl.episode_files(folder / "buffer"), recorded(folder)
    expected = int(record.get("episodes", 0))
    whole = len(files) >= expected and not (folder / unzip.UNPACKING).exists()
    if files and not again and not archive.exists() and not building.exists() and whole:
        known = "all that the archive holds" if record else "not unpacked by this program; --again fetches and mends it"
        return f"{folder}: there already, {len(files):,} episodes, {known}"
    by_hand = f"download it elsewhere and put it into {archive.parent} as {archive.name}"
    if archive.exists():
        sha256, mend = _check_sha256(archive, remote), "remove it, and run this again"
    else:
        archive = download(remote, building, by_hand=by_hand, copies=2)
        sha256, mend = remote.sha256 or pooch.file_hash(str(archive)), f"it was removed; run this again, or {by_hand}"
    size = archive.stat().st_size
    try:
        unpacked = unzip.unzip(archive, folder)
    except ValueError as error:
        shutil.rmtree(building, ignore_errors=True)
        raise ValueError(f"{error}; {mend}") from error
    episodes = unpacked.written + unpacked.kept
    text = json.dumps({"url": remote.url, "sha256": sha256, "bytes": size, "episodes": episodes}, indent=2)
    (folder / RECORD).write_text(text + "\n")
    shutil.rmtree(building, ignore_errors=True)
    kept = f"; {archive} may be removed" if archive.exists() else ""
    checked = "the known one" if remote.sha256 else "none is known to compare it with"
    return (
        f"{folder}: {unpacked.written:,} episodes unpacked, {unpacked.kept:,} there already, "
        f"{unpacked.left_out:,} other files left out; sha256 of the archive {sha256}, {checked}{kept}"
    )


def fetch_d4rl(name: str, data_dir: Path) -> str:
    """Download a D4RL file into <data_dir>/d4rl, unless a folder has it; return what was done, one line.

    Raises what data.download.place raises.
    """
    if there := d4rl.find(name, data_dir):
        return f"{there}: there already"
    path = data_dir / "d4rl" / d4rl.file_name(name)
    folders = " or ".join(map(str, d4rl.folders(data_dir)))
    by_hand = f"download it elsewhere and put it into {folders} as {path.name}"
    place(Remote(d4rl.URLS[name]), path, HDF5_SIGNATURE, by_hand=by_hand)
    sha256 = pooch.file_hash(str(path))
    _beside(path).write_text(f"{sha256}  {path.name}\n")
    return f"{path}: downloaded; sha256 of the file {sha256}, none is known to compare it with"


def recorded_sha256(path: Path) -> str:
    """The hash of a file as it was when it was fetched, empty where none is recorded."""
    beside = _beside(path)
    return beside.read_text().partition(" ")[0] if beside.is_file() else ""


def _beside(path: Path) -> Path:
    """Where the hash of a file lies, as sha256sum writes it."""
    return path.with_name(f"{path.name}.sha256")


def _check_sha256(archive: Path, remote: Remote) -> str:
    """The hash of an archive that was put there. Raises ValueError unless it is the known one, where there is one."""
    found = str(pooch.file_hash(str(archive)))
    if remote.sha256 and found != remote.sha256:
        raise ValueError(f"{archive}: sha256 is {found}, expected {remote.sha256}; remove it, and fetch it again")
    return found
