use std::collections::VecDeque;
use std::sync::Mutex;

use object_store::memory::InMemory;

use super::*;

/// What happens to one call.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fate {
    Done,
    /// Nothing is done, and the error may pass.
    Refused,
    /// Nothing is done, and the error will not pass.
    Full,
    /// Done; the answer does not arrive.
    Lost,
    /// A body or a listing fails after this number of chunks or objects.
    Broken(usize),
    /// A body ends after this number of chunks, without an error.
    Ended(usize),
    /// As `Broken`, with an error that will not pass.
    BrokenForGood(usize),
}

/// Bytes of a chunk of a body.
const CHUNK: usize = 3;

/// A store in memory whose calls fail as a script says, and that notes them.
#[derive(Debug, Default)]
struct Flaky {
    inner: InMemory,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Of the next calls; behind them nothing fails.
    script: VecDeque<Fate>,
    calls: Vec<String>,
}

impl fmt::Display for Flaky {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Flaky")
    }
}

fn transient() -> Error {
    Error::Generic { store: "Flaky", source: io::Error::from(io::ErrorKind::ConnectionReset).into() }
}

fn lasting() -> Error {
    Error::Generic { store: "Flaky", source: io::Error::from(io::ErrorKind::StorageFull).into() }
}

impl Flaky {
    fn begin(&self, call: String) -> Result<Fate> {
        let mut state = self.state.lock().unwrap();
        state.calls.push(call);
        match state.script.pop_front().unwrap_or(Fate::Done) {
            Fate::Refused => Err(transient()),
            Fate::Full => Err(lasting()),
            fate => Ok(fate),
        }
    }

    fn listing(
        &self,
        call: String,
        objects: BoxStream<'static, Result<ObjectMeta>>,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        match self.begin(call) {
            Ok(fate) => broken(objects, fate),
            Err(error) => stream::once(async { Err(error) }).boxed(),
        }
    }
}

/// The items up to where they break.
fn broken<T: Send + 'static>(
    items: BoxStream<'static, Result<T>>,
    fate: Fate,
) -> BoxStream<'static, Result<T>> {
    let end = |error| stream::once(async { Err(error) });
    match fate {
        Fate::Broken(after) => items.take(after).chain(end(transient())).boxed(),
        Fate::BrokenForGood(after) => items.take(after).chain(end(lasting())).boxed(),
        Fate::Ended(after) => items.take(after).boxed(),
        _ => items,
    }
}

/// The answer to a call that was made.
fn answer<T>(fate: Fate, result: T) -> Result<T> {
    if fate == Fate::Lost { Err(transient()) } else { Ok(result) }
}

#[async_trait::async_trait]
impl ObjectStore for Flaky {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let fate = self.begin(format!("put {location}"))?;
        answer(fate, self.inner.put_opts(location, payload, options).await?)
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let fate = self.begin(format!("upload {location}"))?;
        answer(fate, self.inner.put_multipart_opts(location, options).await?)
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let range = options.range.as_ref().map_or(String::new(), |range| format!(" {range}"));
        let tag = if options.if_match.is_some() { " of that version" } else { "" };
        let fate = self.begin(format!("get {location}{range}{tag}"))?;
        let result = self.inner.get_opts(location, options).await?;
        let GetResult { payload, meta, range, attributes } = result;
        let GetResultPayload::Stream(whole) = payload else { panic!("a file in memory") };
        let whole: Vec<Bytes> = whole.try_collect().await?;
        let chunks: Vec<Result<Bytes>> =
            whole.concat().chunks(CHUNK).map(|chunk| Ok(Bytes::copy_from_slice(chunk))).collect();
        let payload = GetResultPayload::Stream(broken(stream::iter(chunks).boxed(), fate));
        Ok(GetResult { payload, meta, range, attributes })
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        let fate = self.begin(format!("get ranges of {location}"))?;
        answer(fate, self.inner.get_ranges(location, ranges).await?)
    }

    /// As a file system does it: an object that is missing is an error.
    fn delete_stream(&self, paths: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let paths: Vec<Path> = paths.try_collect().now_or_never().unwrap().unwrap();
        let mut results = Vec::new();
        for path in paths {
            let fate = self.begin(format!("delete {path}"));
            results.push(fate.and_then(|fate| {
                self.inner.head(&path).now_or_never().unwrap()?;
                self.inner.delete(&path).now_or_never().unwrap()?;
                answer(fate, path)
            }));
        }
        stream::iter(results).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.listing("list".to_owned(), self.inner.list(prefix))
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        self.listing(format!("list behind {offset}"), self.inner.list_with_offset(prefix, offset))
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let fate = self.begin("list with delimiter".to_owned())?;
        answer(fate, self.inner.list_with_delimiter(prefix).await?)
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        let fate = self.begin(format!("copy {from} to {to}"))?;
        answer(fate, self.inner.copy_opts(from, to, options).await?)
    }
}

/// A store with five objects, and a clock that moves only in [`World::run`].
struct World {
    flaky: Arc<Flaky>,
    store: RetryingStore,
    clock: Clock,
}

const TEXT: &[u8] = b"a body of a few dozen bytes, in chunks";

impl World {
    async fn new(order: ListOrder) -> Self {
        let (flaky, clock) = (Arc::new(Flaky::default()), Clock::manual(0));
        for name in ["a", "b", "c", "d", "e"] {
            flaky.inner.put(&path(name), Bytes::from_static(TEXT).into()).await.unwrap();
        }
        let store = RetryingStore::new(Arc::clone(&flaky) as Arc<dyn ObjectStore>, clock.clone(), order);
        Self { flaky, store, clock }
    }

    fn script(&self, fates: impl IntoIterator<Item = Fate>) {
        self.flaky.state.lock().unwrap().script = fates.into_iter().collect();
    }

    /// The calls of the store below since the last question.
    fn calls(&self) -> Vec<String> {
        std::mem::take(&mut self.flaky.state.lock().unwrap().calls)
    }

    /// Runs `call` while the clock moves on by a millisecond at a time.
    async fn run<T>(&self, call: impl Future<Output = T>) -> T {
        let driver = async {
            loop {
                self.clock.advance(Duration::from_millis(1));
                tokio::task::yield_now().await;
            }
        };
        tokio::select! { biased; result = call => result, () = driver => unreachable!() }
    }

    async fn read(&self, options: GetOptions) -> Result<Bytes> {
        self.run(async { self.store.get_opts(&path("a"), options).await?.bytes().await }).await
    }

    async fn list(&self, offset: Option<&str>) -> Result<Vec<String>> {
        let objects = match offset {
            Some(offset) => self.store.list_with_offset(None, &path(offset)),
            None => self.store.list(None),
        };
        self.run(objects.map_ok(|object| object.location.to_string()).try_collect()).await
    }
}

fn path(name: &str) -> Path {
    Path::from(name)
}

#[tokio::test]
async fn call_that_fails_is_repeated_after_waits_that_double_until_it_succeeds_or_tries_are_out() {
    for (failures, tries, waited) in [(0, 1, 0), (3, 4, 700), (7, 8, 12_700), (99, 8, 12_700)] {
        let world = World::new(ListOrder::ByPath).await;
        world.script(vec![Fate::Refused; failures]);
        let result = world.read(GetOptions::new().with_head(true)).await;
        assert_eq!((result.is_ok(), world.calls().len()), (failures < 8, tries));
        let moved = world.clock.monotonic().as_millis();
        assert!((waited..waited + 10).contains(&moved), "{moved} ms for {failures} failures");
    }
}

#[tokio::test]
async fn no_try_begins_when_the_first_one_is_a_minute_ago() {
    let world = World::new(ListOrder::ByPath).await;
    let mut tries = 0;
    let slow = || {
        tries += 1;
        world.clock.advance(Duration::from_secs(31));
        async { Err::<(), _>(transient()) }
    };
    world.run(world.store.retry("get", slow)).await.unwrap_err();
    assert_eq!(tries, 2);
}

#[tokio::test]
async fn error_that_lasts_is_passed_on_at_once() {
    let world = World::new(ListOrder::ByPath).await;
    let missing = world.run(world.store.get(&path("none"))).await.unwrap_err();
    assert!(matches!(missing, Error::NotFound { .. }), "{missing}");
    assert_eq!(world.calls(), ["get none"]);
    world.script([Fate::Full]);
    world.run(world.store.put(&path("f"), "f".into())).await.unwrap_err();
    assert_eq!(world.calls(), ["put f"]);
    world.script([Fate::BrokenForGood(2)]);
    world.read(GetOptions::new()).await.unwrap_err();
    assert_eq!(world.calls(), ["get a"]);
    world.script([Fate::BrokenForGood(2)]);
    world.list(None).await.unwrap_err();
    assert_eq!(world.calls(), ["list"]);
    assert_eq!(world.clock.monotonic().as_millis(), 0, "nothing waited");
}

#[tokio::test]
async fn body_that_breaks_anywhere_goes_on_at_the_next_byte_with_the_same_bytes() {
    let world = World::new(ListOrder::ByPath).await;
    let chunks = TEXT.len().div_ceil(CHUNK);
    for range in [None, Some(5..31)] {
        let all = range.clone().map_or(TEXT, |range| &TEXT[range]);
        let options = || GetOptions {
            range: range.clone().map(|range| GetRange::Bounded(range.start as u64..range.end as u64)),
            ..GetOptions::new()
        };
        for first in 0..=chunks {
            for fate in [Fate::Broken(first), Fate::Ended(first)] {
                // It breaks twice, and the server refuses to go on in between.
                world.script([fate, Fate::Refused, Fate::Broken(2), Fate::Refused]);
                assert_eq!(world.read(options()).await.unwrap(), all, "{fate:?} of {range:?}");
            }
        }
    }
    world.calls();
    world.script([Fate::Broken(4), Fate::Broken(2)]);
    world.read(GetOptions::new()).await.unwrap();
    let expected = ["get a", "get a bytes=12-37 of that version", "get a bytes=18-37 of that version"];
    assert_eq!(world.calls(), expected);
}

#[tokio::test]
async fn body_that_never_goes_on_is_given_up_after_the_same_tries_as_a_call() {
    let world = World::new(ListOrder::ByPath).await;
    world.script([vec![Fate::Broken(4)], vec![Fate::Broken(0); 99]].concat());
    world.read(GetOptions::new()).await.unwrap_err();
    assert_eq!(world.calls().len(), 1 + TRIES);
}

#[tokio::test]
async fn body_of_an_object_that_is_replaced_meanwhile_is_an_error_and_no_mixture() {
    let world = World::new(ListOrder::ByPath).await;
    world.script([Fate::Broken(4)]);
    let result = world.store.get(&path("a")).await.unwrap();
    world.flaky.inner.put(&path("a"), Bytes::from(TEXT.to_ascii_uppercase()).into()).await.unwrap();
    let error = world.run(result.bytes()).await.unwrap_err();
    assert!(matches!(error, Error::Precondition { .. }), "{error}");
}

#[tokio::test]
async fn ranges_are_read_one_by_one_where_reading_them_together_fails() {
    let world = World::new(ListOrder::ByPath).await;
    let ranges = [0..4, 30..38, 10..11];
    world.script([Fate::Refused, Fate::Broken(3)]);
    let read = world.run(world.store.get_ranges(&path("a"), &ranges)).await.unwrap();
    let expected: Vec<&[u8]> = vec![&TEXT[0..4], &TEXT[30..38], &TEXT[10..11]];
    assert_eq!(read, expected);
    assert_eq!(world.calls(), ["get ranges of a", "get a bytes=0-37", "get a bytes=9-37 of that version"]);
}

#[tokio::test]
async fn listing_that_breaks_anywhere_goes_on_without_loss_or_repeat() {
    let world = World::new(ListOrder::ByPath).await;
    for offset in [None, Some("b")] {
        let all: Vec<&str> =
            ["a", "b", "c", "d", "e"].into_iter().filter(|name| Some(*name) > offset).collect();
        for first in 0..=all.len() {
            for second in 0..=all.len() {
                world.script([Fate::Refused, Fate::Broken(first), Fate::Refused, Fate::Broken(second)]);
                assert_eq!(world.list(offset).await.unwrap(), all, "{first}, then {second}");
            }
        }
    }
    world.calls();
    world.script([Fate::Broken(2), Fate::Broken(1)]);
    world.list(None).await.unwrap();
    assert_eq!(world.calls(), ["list", "list behind b", "list behind c"]);
}

#[tokio::test]
async fn listing_without_a_known_order_is_repeated_until_its_first_object_and_not_behind_it() {
    let world = World::new(ListOrder::Unknown).await;
    world.script([Fate::Refused, Fate::Broken(0)]);
    assert_eq!(world.list(None).await.unwrap(), ["a", "b", "c", "d", "e"]);
    assert_eq!(world.calls(), ["list"; 3]);
    world.script([Fate::Broken(2)]);
    world.list(None).await.unwrap_err();
    assert_eq!(world.calls(), ["list"]);
}

#[tokio::test]
async fn what_creates_an_object_is_never_repeated_and_what_overwrites_one_is() {
    let world = World::new(ListOrder::ByPath).await;
    for fate in [Fate::Refused, Fate::Lost] {
        let create = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        world.script([fate]);
        world.run(world.store.put_opts(&path("new"), "n".into(), create)).await.unwrap_err();
        assert_eq!(world.calls(), ["put new"]);
        world.script([fate]);
        world.run(world.store.copy_if_not_exists(&path("a"), &path("copy"))).await.unwrap_err();
        assert_eq!(world.calls(), ["copy a to copy"]);

        world.script([fate]);
        world.run(world.store.put(&path("f"), "f".into())).await.unwrap();
        assert_eq!(world.calls(), ["put f"; 2]);
        world.script([fate]);
        world.run(world.store.copy(&path("f"), &path("g"))).await.unwrap();
        assert_eq!(world.calls(), ["copy f to g"; 2]);
        world.script([fate]);
        let mut upload = world.run(world.store.put_multipart(&path("h"))).await.unwrap();
        upload.put_part("h".into()).await.unwrap();
        upload.complete().await.unwrap();
        assert_eq!(world.calls(), ["upload h"; 2]);
    }
    let text = world.run(async { world.store.get(&path("g")).await?.bytes().await }).await.unwrap();
    assert_eq!(text, "f");
}

#[tokio::test]
async fn delete_is_repeated_and_what_is_gone_by_then_is_deleted() {
    let world = World::new(ListOrder::ByPath).await;
    // The second is deleted and not answered for, the third is refused.
    world.script([Fate::Done, Fate::Lost, Fate::Done, Fate::Done, Fate::Refused]);
    let paths = stream::iter(["a", "b", "c"].map(|name| Ok(path(name)))).boxed();
    let deleted: Vec<Path> = world.run(world.store.delete_stream(paths).try_collect()).await.unwrap();
    assert_eq!(deleted, ["a", "b", "c"].map(path));
    assert_eq!(world.list(None).await.unwrap(), ["d", "e"]);
    world.script([]);
    let missing = world.run(world.store.delete(&path("a"))).await.unwrap_err();
    assert!(matches!(missing, Error::NotFound { .. }), "{missing}");
}

/// More than are deleted in one request.
#[tokio::test]
async fn every_path_of_a_long_list_is_deleted_in_its_order() {
    let world = World::new(ListOrder::ByPath).await;
    let names: Vec<Path> = (0..2 * DELETED_AT_ONCE + 7).map(|number| path(&format!("{number:05}"))).collect();
    for name in &names {
        world.flaky.inner.put(name, "x".into()).await.unwrap();
    }
    let paths = stream::iter(names.clone()).map(Ok).boxed();
    let deleted: Vec<Path> = world.run(world.store.delete_stream(paths).try_collect()).await.unwrap();
    assert_eq!(deleted, names);
    assert_eq!(world.list(None).await.unwrap(), ["a", "b", "c", "d", "e"]);
}
