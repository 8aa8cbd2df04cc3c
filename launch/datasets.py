"""See and get data sets: python -m launch.datasets [list | fetch NAME... | verify [NAME...] | convert SOURCE TARGET]

list      what is on disk, and what can be fetched or collected (what happens without a word)
fetch     download: exorl/walker/rnd, hopper-medium-replay-v2
verify    read and check every file of what is named, or of all there is; exit code 1 if one is bad
convert   from one format into another: exorl/walker/td3 into minari/walker/td3-v0

Names are exorl/<domain>/<folder> under --data_dir, d4rl/<id> (or the id alone) and minari/<id>.
"""

import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from absl import flags

import envs
from data import catalog, d4rl, exorl, minari
from data.inventory import Held, held
from envs.family import find as find_family
from launch import program, workers
from launch.sections import aligned

if TYPE_CHECKING:
    from data.convert import Place

QUANTILES = {"min": 0.0, "25%": 0.25, "50%": 0.5, "75%": 0.75, "max": 1.0}
HASH_SHOWN = 12


def names(name: str) -> tuple[str, str]:
    """The format of a data set and its name there. Raises ValueError, listing what is known, for any other."""
    format, _, id = name.partition("/")
    if name in d4rl.URLS:
        return "d4rl", name
    if (format == "d4rl" and id in d4rl.URLS) or (format == "minari" and minari.ID.fullmatch(id)):
        return format, id
    if format == "exorl" and len(parts := id.split("/")) == 2 and not {"", ".", ".."} & {*parts}:
        return format, id
    raise ValueError(f"unknown data set {name!r}, expected one of: {', '.join(known())}, minari/ID")


def known() -> list[str]:
    """The names of what is published, many at a time, as a shell expands them."""
    bodies: dict[str, list[str]] = {}
    for id in d4rl.URLS:
        body, _, kind = id.partition("-")
        bodies.setdefault(body, []).append(kind)
    alike: dict[tuple[str, ...], list[str]] = {}
    for body, kinds in bodies.items():
        alike.setdefault(tuple(kinds), []).append(body)
    return [
        f"exorl/{_braces(catalog.DOMAINS)}/{_braces(catalog.DOWNLOADS)}",
        *(f"d4rl/{_braces(bodies)}-{_braces(kinds)}" for kinds, bodies in alike.items()),
    ]


def listing(found: Sequence[Held], data_dir: Path) -> Iterator[str]:
    """The lines of the listing."""
    yield "On disk:" if found else f"On disk: nothing yet (looked in {', '.join(_folders(data_dir))})."
    heading = ("data set", "episodes", "steps", "size", "sha256", "where")
    rows = [
        (
            row.name,
            f"{row.episodes:,}",
            f"{row.steps:,}",
            size(row.bytes),
            row.sha256[:HASH_SHOWN] or "-",
            str(row.path),
        )
        for row in found
        if not row.problem
    ]
    yield from (f"  {line}" for line in aligned([heading, *rows] if rows else [], "<>>><"))
    yield from (f"  {row.name}: {row.problem}" for row in found if row.problem)
    returns = [
        (row.name, task, *_quantiles(values))
        for row in found
        for task, values in row.returns.items()
        if not find_family(task.rpartition("-")[0])  # what a family's rewards are computed from
    ]
    if found:
        yield ""
        yield "Returns, of rewards that are computed or stored already (--env TASK computes a task's):"
        table: list[tuple[str, ...]] = [("data set", "task", *QUANTILES), *returns] if returns else [("none",)]
        yield from (f"  {line}" for line in aligned(table, "<<>"))
    yield ""
    yield "To collect (python -m launch.collect --env walker_run --agent AGENT), where nothing can be downloaded:"
    yield f"  {', '.join(catalog.COLLECTED)}"
    yield ""
    yield "To fetch (python -m launch.datasets fetch NAME):"
    yield from (f"  {pattern}" for pattern in known())
    sizes = [f"{domain}/{dataset} {size(many)}" for (domain, dataset), many in catalog.DOWNLOAD_BYTES.items()]
    yield f"  sizes that are known: {', '.join(sizes)}"
    yield "  Minari's, with its own program: minari download ID"


def size(many: int) -> str:
    """[bytes] in the unit that fits."""
    for unit, worth in (("GB", 1e9), ("MB", 1e6)):
        if many >= worth:
            return f"{many / worth:.1f} {unit}"
    return f"{many / 1e3:.1f} kB"


def fetch(name: str, data_dir: Path, again: bool) -> str:
    """Download a data set; return what was done. Raises ValueError where there is nothing to download."""
    from data import fetch

    format, id = names(name)
    if format == "d4rl":
        return fetch.fetch_d4rl(id, data_dir)
    if format == "minari":
        raise ValueError(f"{name}: expected a data set of ExoRL or D4RL; get this one with: minari download {id}")
    domain, dataset = id.split("/")
    if domain in catalog.DOMAINS and dataset in catalog.DOWNLOADS:
        return fetch.fetch_exorl(domain, dataset, data_dir, again=again)
    tasks = [task for task in envs.NAMES if envs.spec(task).domain == domain]
    if tasks and dataset in catalog.COLLECTED:
        how = f"it is collected: python -m launch.collect --env {tasks[0]} --agent {dataset} --data_dir {data_dir}"
    else:
        domains, datasets = ", ".join(catalog.DOMAINS), ", ".join(catalog.DOWNLOADS)
        how = f"ExoRL has the domains {domains} and the data sets {datasets}"
    raise ValueError(f"{name}: nothing to download, {how}")


def compute(env: str, found: Iterable[Held], processes: int) -> None:
    """Compute and cache the rewards of a task for all data sets of its domain. Raises what data.exorl.load raises."""
    if find_family(env):
        raise ValueError(f"--env: expected one task, got {env}, a family of them")
    spec, reward_fn = envs.spec(env), envs.reward_fn(env)
    if reward_fn is None:
        return
    sizes = exorl.Sizes(spec.observation_size, spec.action_size, spec.physics_size)
    for row in found:
        if row.name.startswith(f"exorl/{spec.domain}/") and not row.problem:
            exorl.load(row.path, name=env, sizes=sizes, reward_fn=reward_fn, workers=processes)


def verify(wanted: Sequence[str], data_dir: Path, processes: int) -> bool:
    """Check data sets, all on disk where none is named, and print what was found -> whether all are good.

    Raises FileNotFoundError when one is not on disk.
    """
    from data.verify import Expected
    from data.verify import verify as check

    there = {row.name: row for row in held(data_dir, _episode_lengths())}
    keys = ["/".join(names(name)) for name in wanted] or list(there)
    if absent := [key for key in keys if key not in there]:
        raise FileNotFoundError(
            f"{', '.join(absent)}: not on disk, expected one of: {', '.join(there) or 'none there'}"
        )
    expected = {}
    for spec in map(envs.spec, envs.NAMES):
        key = spec.domain if spec.simulator == "dm_control" else spec.name
        expected[key] = Expected(key, *spec[3:7])
    good = True
    for report in check([there[key] for key in keys], expected, processes):
        row = report.held
        for line in report.bad:
            print(line)
        state = f"{len(report.bad):,} bad" if report.bad else f"good, sha256 {report.sha256}"
        print(f"{row.name}: {row.episodes:,} episodes, {row.steps:,} steps, {size(row.bytes)}: {state}")
        for note in report.notes:
            print(f"  {note}")
        good &= not report.bad
    return good


def place(name: str, data_dir: Path) -> "Place":
    """Where a data set is, or will be; also <format>:<folder, file or name> for one that lies anywhere."""
    from data.convert import Place

    if ":" in name:
        return Place.parse(name)
    format, id = names(name)
    if format == "minari":
        return Place(format, id)
    if format == "exorl":
        return Place(format, str(data_dir / id))
    return Place(format, str(d4rl.find(id, data_dir) or data_dir / "d4rl" / d4rl.file_name(id)))


def convert(source: str, target: str, data_dir: Path, env: str) -> Iterator[str]:
    """Convert a data set -> what was done, what was not kept.

    Args:
      env: the environment that a Minari set says it is of, and whose limit of steps ends the episodes of a D4RL file
        that marks no ends; empty: the one it was collected in, where that is recorded.

    Raises what data.convert.convert raises.
    """
    from data import convert

    origin, goal = place(source, data_dir), place(target, data_dir)
    about = {"description": f"Converted from {source}."}
    folder = Path(origin.location) if origin.format == "exorl" else Path()
    length = envs.spec(env).episode_length if env else 0
    if env := env or _collected_in(folder):
        about |= {"env_id": envs.spec(env).name, "entry_point": "envs:make"}
    done = convert.convert(
        origin,
        goal,
        episode_length=_episode_lengths().get(source.removeprefix("d4rl/"), length),
        requirements=[f"{package}=={version}" for package, version in catalog.recorded_versions(folder).items()],
        **about,
    )
    yield f"{goal}: {done.episodes:,} episodes, {done.steps:,} steps"
    yield from (f"  not kept: {note}" for note in done.notes)
    if not done.notes:
        yield "  every array came through as it was"


def main(argv: Sequence[str]) -> None:
    """Do what the first word says."""
    values = flags.FLAGS
    command, words, data_dir = argv[1] if len(argv) > 1 else "list", list(argv[2:]), Path(values.data_dir)
    processes = values.workers or workers.cores()
    match command, words:
        case "list", []:
            found = held(data_dir, _episode_lengths())
            if values.env:
                compute(values.env, found, processes)
                found = held(data_dir, _episode_lengths())
            print("\n".join(listing(found, data_dir)))
        case "fetch", [_, *_]:
            for name in words:
                names(name)
            for name in words:
                print(fetch(name, data_dir, values.again), flush=True)
        case "verify", _:
            sys.exit(not verify(words, data_dir, processes))
        case "convert", [source, target]:
            print("\n".join(convert(source, target, data_dir, values.env)))
        case _:
            expected = "list, fetch NAME..., verify [NAME...] or convert SOURCE TARGET"
            raise ValueError(f"expected {expected}, got {' '.join(argv[1:])!r}; see --help")


def guarded(argv: Sequence[str]) -> None:
    """Stopped by Ctrl-C, a download or an archive half unpacked is gone on with."""
    try:
        main(argv)
    except KeyboardInterrupt:
        sys.exit("stopped; the same command goes on from here")


def _quantiles(values: np.ndarray) -> list[str]:
    return [f"{value:,.1f}" for value in np.quantile(values, list(QUANTILES.values()))]


def _folders(data_dir: Path) -> list[str]:
    """Everywhere that data sets are looked for."""
    return list(map(str, [*d4rl.folders(data_dir), minari.root()]))


def _collected_in(folder: Path) -> str:
    """The environment that launch.collect wrote down; empty where it did not."""
    return str(catalog.origin(folder).get("env", ""))


def _braces(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{{{','.join(words)}}}"


def _episode_lengths() -> dict[str, int]:
    """Of the environments that are named after D4RL's files."""
    return {name: envs.spec(name).episode_length for name in envs.NAMES if name in d4rl.URLS}


def define_flags() -> None:
    """Not when imported: other programs have flags of the same names."""
    flags.DEFINE_string("data_dir", "datasets", "Where data sets lie, as <domain>/<data set>/buffer.")
    flags.DEFINE_string(
        "env", "", "list: compute this task's rewards, too (minutes for a large set). convert: what the data are of."
    )
    flags.DEFINE_boolean("again", False, "fetch: also what is on disk already; files that differ are replaced.")
    flags.DEFINE_integer("workers", 0, "Processes that read and check; 0 is as many as cores.", lower_bound=0)


if __name__ == "__main__":
    define_flags()
    program.run(guarded, words=True)
