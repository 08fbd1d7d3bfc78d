"""Building an index of shards with Ray Data. The driver plans and publishes; `work` is what the machines do."""

import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from encoder import Encoder
from encoder.arguments import absolute
from encoder.errors import ArgumentError, CorpusError, IndexFormatError, LatewoodError
from encoder.progress import Progress, Told
from indexing.coding.sizes import PQ_CENTROIDS, sample_size
from indexing.coding.vocabulary import owners_file
from indexing.settings import IndexSettings
from indexing.storage.durable import publish_json, remove
from indexing.storage.lock import WriterLock
from indexing.storage.sharded import BITS, Manifest, digest_of, shard_names
from indexing.storage.tables import BUILD, DATABASE, LOCK, MANIFEST, exists
from indexing.writing.records import hash_salt
from indexing.writing.shards import make, publish
from retriever.cluster import work
from retriever.cluster.joining import cause_of, ray_module
from retriever.cluster.options import BuildOptions
from retriever.cluster.reading import files_of, read_documents
from retriever.cluster.work import Places

__all__ = ["BuildReport", "build"]

CHARS_PER_TOKEN = 4  # a guess, of how many tokens there will be
LEAST_SAMPLE, MORE = 1000, 1.2  # documents on which a codec is trained; more than a guess says it takes
PASSES = 10  # readings of the source: another one where a writer died
PATIENCE = 20.0  # seconds for a last commit
# Of texts, that an encoder is given at a time. When none is left the others wait for the one that took the last; a
# GPU computes more together.
BLOCK_BYTES, BLOCK_BYTES_GPU = 1 << 16, 1 << 18
BLOCKS = 2  # that an encoder has: one in work, one beside
COUNTED_HERE = (
    1 << 24
)  # bytes of files whose documents the driver counts, sooner than Ray has begun a process


@dataclass
class BuildReport:
    """What a build did. documents: of the index. version: of its shards. encoded: by this run, documents; tokens:
    of these."""

    documents: int = 0
    version: int = 0
    encoded: int = 0
    tokens: int = 0


@dataclass(frozen=True)
class _Plan:
    """What lies in the folder while shards are made: by it the same call goes on. sources, shards, settings: what was
    asked. documents, chars: of the sources, once they are counted. error: of the codec, once it is trained (State)."""

    sources: tuple[str, ...]
    shards: int
    settings: dict[str, Any]
    version: int
    documents: int = 0
    chars: int = 0
    error: float | None = None

    @classmethod
    def read(cls, folder: Path) -> "_Plan":
        path = folder / BUILD
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            return cls(tuple(values.pop("sources")), **values)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise IndexFormatError(f"{path} is damaged ({error}); delete it to begin anew") from None

    def write(self, folder: Path) -> "_Plan":
        publish_json(folder, BUILD, asdict(self))
        return self


def build(
    sources: Sequence[str],
    out: str | Path,
    encoder: Encoder,
    options: BuildOptions,
    *,
    exclude: Sequence[str] = (),
    progress: Told | None = None,
    **settings: Any,
) -> BuildReport:
    """Build shards in the folder `out`, and publish them: from then on they are the index there.

    To be called where `joined` is. All machines must see the sources, `out` and a model that is a folder by the same
    paths. A build that was stopped is gone on with by the same call: what was committed is kept. settings: as of
    Index.create.
    Raises ArgumentError where an unfinished build of something else is in the way, or the cluster is too small;
    CorpusError for sources that cannot be read, or two texts of one doc_id.
    """
    ray_module()
    fixed, out = IndexSettings.made(encoder, None, settings), absolute(out)
    if (out / DATABASE).exists():
        raise ArgumentError(f"{out} is an index without shards; pass a new path")
    files, size = files_of(sources), _actors(options)
    out.mkdir(parents=True, exist_ok=True)
    lock = WriterLock(out / LOCK)
    try:
        plan = _planned(out, tuple(files), fixed, options.shards)
        options = replace(options, actors=size)
        return _Build(plan, out, fixed, options, progress, encoder, tuple(exclude)).run()
    except Exception as error:
        if (cause := cause_of(error)) is not None and cause is not error:
            raise cause from None
        raise
    finally:
        lock.release()


def _actors(options: BuildOptions) -> int:
    """How many encode. Raises ArgumentError for more than the cluster has room for: the others would wait for ever."""
    rooms = [node["Resources"] for node in ray_module().nodes() if node["Alive"]]
    each = [room.get("CPU", 0) // options.cpus for room in rooms]
    if options.gpus:
        each = [min(n, room.get("GPU", 0) // options.gpus) for n, room in zip(each, rooms, strict=True)]
    most, asked = int(sum(each)), options.actors or 1
    if most < asked:
        wanted = f"{options.cpus:g} CPUs" + f" and {options.gpus:g} GPUs" * bool(options.gpus)
        remedy = f"pass --actors {most}" if most else "pass fewer --cpus or --gpus, or add machines"
        raise ArgumentError(f"actors={asked} of {wanted} each: the cluster has room for {most}; {remedy}")
    return options.actors or most


def _planned(out: Path, sources: tuple[str, ...], fixed: IndexSettings, shards: int) -> _Plan:
    """That of an unfinished build, or of the next version."""
    published = Manifest.read(out).version if (out / MANIFEST).is_file() else 0
    plan = _Plan(sources, shards, json.loads(json.dumps(asdict(fixed))), published + 1)
    if (out / BUILD).is_file():
        found = _Plan.read(out)
        if found.version <= published:  # published, and stopped before the file was removed
            remove(out / BUILD)
        else:
            for name in ("sources", "shards", "settings"):
                if (theirs := getattr(found, name)) != getattr(plan, name):
                    raise ArgumentError(
                        f"{out} has an unfinished build with other {name} ({theirs}); pass the same, or delete "
                        f"{out / BUILD} to begin anew"
                    )
            return found
    remove(out / shard_names(plan.version, 1)[0].partition("/")[0])
    return plan.write(out)


@dataclass
class _Build:
    plan: _Plan
    out: Path
    fixed: IndexSettings
    options: BuildOptions
    told: Told | None
    encoder: Encoder
    exclude: tuple[str, ...]

    def __post_init__(self) -> None:
        self.reading = self.exclude, hash_salt(self.encoder.load_arguments)
        self.places = Places(self.out, tuple(shard_names(self.plan.version, self.plan.shards)))
        self.report = BuildReport(version=self.plan.version)

    def run(self) -> BuildReport:
        import ray

        plan = self.plan
        for i, place in enumerate(self.places.shards):
            if not exists(place / DATABASE):
                make(place, self.fixed, i << BITS)
        if not plan.documents:
            plan = self._counted().write(self.out)
        # Without CPUs of their own, so that they never wait for those that wait for them.
        actor = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1, scheduling_strategy="SPREAD")(
            work.ShardWriter
        )
        self.writers = [actor.remote(place) for place in self.places.shards]
        try:
            self._written(plan)
            ray.get([writer.close.remote() for writer in self.writers])
        finally:
            for writer in self.writers:
                ray.kill(writer)
        return self._published(plan)

    def _written(self, plan: _Plan) -> None:
        """All documents, in the shards."""
        if plan.error is not None:
            self._compress(plan)
            self._fill(plan)
            return
        share = _share(plan, self.fixed.segment_tokens)
        self._fill(plan, share)
        with self.places.snapshot() as now:
            tokens = int(now.n_tokens / share)
        if tokens >= max(self.fixed.flat_tokens, PQ_CENTROIDS):
            plan = replace(plan, error=self._trained(tokens)).write(self.out)
            self._compress(plan)
        if share < 1:
            self._fill(plan)

    def _blocks(self) -> Any:
        """The documents of all sources, read while they are asked for."""
        import ray.data

        sources = list(self.plan.sources)
        files = ray.data.from_items(sources, override_num_blocks=len(sources))
        files.context.target_max_block_size = BLOCK_BYTES_GPU if self.options.gpus else BLOCK_BYTES
        files.context.enable_progress_bars = False
        # What reads takes no CPU of Ray's: where actors had them all it would wait for ever.
        return files.map_batches(
            work.read_blocks,
            fn_args=self.reading,
            batch_size=1,
            num_cpus=0,
            compute=ray.data.TaskPoolStrategy(size=min(len(sources), self.options.actors or 1)),
        )

    def _counted(self) -> _Plan:
        documents = chars = 0
        with Progress[int](phase="reading", unit="document", told=self.told) as bar:
            for n, size in self._sizes():
                documents += n
                chars += size
                bar.update(n)
        if not documents:
            raise CorpusError("the sources hold no documents; pass some that do")
        return replace(self.plan, documents=documents, chars=chars)

    def _sizes(self) -> Iterator[tuple[int, int]]:
        """Documents and characters of all sources, some at a time."""
        paths = [Path(source) for source in self.plan.sources]
        if all(path.is_file() for path in paths) and sum(p.stat().st_size for p in paths) <= COUNTED_HERE:
            for source in self.plan.sources:
                for document in read_documents(source, self.exclude):
                    yield 1, len(document["text"])
            return
        sizes = self._blocks().map_batches(work.sizes, batch_size=None, batch_format="pyarrow", num_cpus=0)
        for block in sizes.iter_batches(batch_size=None):
            yield int(block["documents"].sum()), int(block["chars"].sum())

    def _fill(self, plan: _Plan, share: float = 1.0) -> None:
        """Encode and store what is not stored yet: of all documents, or of a share that is drawn by their ids."""
        import ray

        writers = self.writers
        try:
            for _ in range(PASSES):
                names = [writer.begin.remote() for writer in writers]
                self._read(self._encoded(plan, share, names), plan.documents if share == 1 else None)
                ended = [
                    writer.finish.remote(name, share == 1)
                    for writer, name in zip(writers, names, strict=True)
                ]
                if all(ray.get(ended)):
                    return
        except BaseException:  # what is done is kept, if the writers still can
            with suppress(Exception):
                ray.get([writer.commit.remote() for writer in writers], timeout=PATIENCE)
            raise
        raise LatewoodError(
            f"writers died in each of {PASSES} readings of the sources; see that they have memory and disk"
        )

    def _encoded(self, plan: _Plan, share: float, begun: list[Any]) -> Any:
        """What encoders count. begun: by the writers, for which they wait."""
        from ray.data import ActorPoolStrategy

        blocks, options = self._blocks(), self.options
        if share < 1:
            blocks = blocks.map_batches(
                work.drawn, fn_args=(share,), batch_size=None, batch_format="pyarrow", num_cpus=0
            )
        codec = None if plan.error is None else self.places.codec
        return blocks.map_batches(
            work.Encode,
            fn_constructor_args=(self.encoder.load_arguments, self.fixed, codec, self.writers, begun),
            batch_size=None,
            batch_format="pyarrow",
            compute=ActorPoolStrategy(size=options.actors, max_tasks_in_flight_per_actor=BLOCKS),
            num_cpus=options.cpus,
            num_gpus=options.gpus,
        )

    def _compress(self, plan: _Plan) -> None:
        """Code what is stored, and what is to come."""
        import ray

        calls = [writer.adopt.remote(self.places.codec, plan.error) for writer in self.writers]
        with Progress[int](phase="compressing", unit="shard", told=self.told, total=len(calls)) as bar:
            for call in calls:
                ray.get(call)
                bar.update()

    def _read(self, encoded: Any, total: int | None) -> None:
        phase = "encoding a sample" if total is None else "encoding"
        with Progress[int](phase=phase, unit="document", told=self.told, total=total) as bar:
            for block in encoded.iter_batches(batch_size=None):
                self.report.encoded += int(block["encoded"].sum())
                self.report.tokens += int(block["tokens"].sum())
                bar.update(int(block["documents"].sum()))

    def _trained(self, tokens: int) -> float:
        import ray

        options = self.options
        task = ray.remote(num_cpus=options.cpus, num_gpus=options.gpus)(work.train)
        with Progress[int](phase="training the codec", unit="codec", told=self.told, total=1) as bar:
            error = ray.get(task.remote(self.places, tokens, "cuda" if options.gpus else None))
            bar.update()
        return float(error)

    def _published(self, plan: _Plan) -> BuildReport:
        with self.places.snapshot() as now:
            self.report.documents = len(now)
            codec = None if now.codec is None else digest_of(now.parts[0])
        publish(self.out, plan.version, plan.shards, codec)
        remove(self.out / BUILD)
        for path in (self.places.codec, self.places.codec.with_name(owners_file(self.places.codec.name))):
            remove(path)
        for path in self.out.glob("v*"):
            if path.name < f"v{plan.version - 1:04d}":  # the one before stays: some may be opening it
                remove(path)
        return self.report


def _share(plan: _Plan, most_flat: int) -> float:
    """Of the documents, that are stored before a codec is trained on them; the others are coded where they are encoded.
    most_flat: tokens, of so few all."""
    tokens = max(plan.chars // CHARS_PER_TOKEN, 1)
    if tokens <= most_flat:
        return 1.0
    return min(1.0, max(MORE * sample_size(tokens) / tokens, LEAST_SAMPLE / plan.documents))
