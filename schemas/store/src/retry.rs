//! The object store that every read and write goes through, Delta's too. It repeats operations on transient
//! errors of the store below it.
//!
//! ```text
//! Delta log, checkpoints, vacuum, DataFusion scans, our own reads ─> RetryingStore ─> S3, local folder
//! ```
//!
//! | operation | on a transient error |
//! |---|---|
//! | get, head, list with delimiter | repeated |
//! | body of a get | continued at the next byte of the same version of the object |
//! | listing | continued after the last path, if the store lists in order of path |
//! | put and copy that overwrite, start of an upload | repeated |
//! | delete | repeated; a path that is then missing counts as deleted |
//! | put and copy that create, rename | never repeated: after a lost answer the second try would find the first |
//! | parts of an upload | repeated by the store below, which alone can reuse a part's number |
//!
//! A commit creates its log entry; after a lost answer [`commit`](crate::commit) reads the log.
//!
//! # Together with the retries of the store below
//! The S3 client of `object_store` repeats single requests (10 times within 3 minutes, with jitter; its
//! options `max_retries` and `retry_timeout` change that). It knows status codes and the numbers of parts, so
//! it keeps its setting. What fails in spite of it is tried at most [`TRIES`] times, and no try that fails
//! [`PATIENCE`] after the start is followed by another: a server that answers each request with an error
//! at once gets at most 88 requests in about 40 seconds, and one that does not answer at all gets one round
//! of the client, not eight.

use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use backon::{ExponentialBuilder, Retryable as _};
use bytes::Bytes;
use futures::stream::{self, BoxStream};
use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _};
use object_store::path::Path;
use object_store::{
    CopyMode, CopyOptions, Error, GetOptions, GetRange, GetResult, GetResultPayload, ListResult,
    MultipartUpload, OBJECT_STORE_COALESCE_DEFAULT, ObjectMeta, ObjectStore, ObjectStoreExt as _, PutMode,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, Result, coalesce_ranges,
};

use crate::cause::may_pass;
use perennial_program::clock::Clock;

/// The most tries of one operation.
pub(crate) const TRIES: usize = 8;

/// The wait before the second try; each further wait is twice as long.
pub(crate) const FIRST_WAIT: Duration = Duration::from_millis(100);

/// The time since the start of an operation after which a failed try is not followed by another.
const PATIENCE: Duration = Duration::from_secs(60);

/// The maximum number of paths in one request to delete; it is the limit of S3.
const DELETED_AT_ONCE: usize = 1_000;

/// The waits between [`TRIES`] tries: 100 ms, 200 ms, and so on. Without jitter: nothing here is random.
pub(crate) const fn waits() -> ExponentialBuilder {
    ExponentialBuilder::new().with_min_delay(FIRST_WAIT).without_max_delay().with_max_times(TRIES - 1)
}

/// Waits on `clock`.
pub(crate) fn sleeper(clock: &Clock) -> impl Fn(Duration) -> futures::future::BoxFuture<'static, ()> + use<> {
    let clock = clock.clone();
    move |wait| {
        let clock = clock.clone();
        async move { clock.sleep(wait).await }.boxed()
    }
}

/// The order in which a store lists its objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ListOrder {
    /// By the bytes of the path, as S3's general purpose buckets do.
    ByPath,
    /// Not known: a listing that breaks off after its first object is not continued.
    Unknown,
}

/// An object store that repeats operations on transient errors. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct RetryingStore {
    inner: Arc<dyn ObjectStore>,
    clock: Clock,
    order: ListOrder,
}

impl fmt::Display for RetryingStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RetryingStore({})", self.inner)
    }
}

impl RetryingStore {
    pub(crate) fn new(inner: Arc<dyn ObjectStore>, clock: Clock, order: ListOrder) -> Self {
        Self { inner, clock, order }
    }

    /// Calls `attempt` until it succeeds or fails for good, or [`TRIES`] or [`PATIENCE`] is used up.
    async fn retry<T, F>(&self, operation: &'static str, attempt: impl FnMut() -> F) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        let deadline = self.clock.monotonic().saturating_add(PATIENCE);
        attempt
            .retry(waits())
            .sleep(sleeper(&self.clock))
            .when(|error| may_pass(error) && self.clock.monotonic() < deadline)
            .notify(|error, wait| {
                tracing::warn!(operation, %error, "transient error of the object store, retrying in {wait:?}");
            })
            .await
    }

    /// The same answer, with a body that goes on where it breaks. A local file is read as it is.
    fn resuming(&self, options: GetOptions, result: GetResult) -> GetResult {
        let payload = match result.payload {
            GetResultPayload::Stream(chunks) if !options.head => {
                let (meta, left) = (result.meta.clone(), result.range.clone());
                let rest = Rest { store: self.clone(), options, meta, left };
                GetResultPayload::Stream(Body { rest, chunks }.into_stream())
            }
            whole => whole,
        };
        GetResult { payload, ..result }
    }

    /// The objects below `prefix` after `offset`.
    fn list_from(
        &self,
        prefix: Option<&Path>,
        offset: Option<&Path>,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        let (prefix, offset) = (prefix.cloned(), offset.cloned());
        Listing { store: self.clone(), prefix, offset, objects: None }.into_stream()
    }

    /// Deletes `paths`: the result of each, or one error for all of them.
    async fn delete_all(&self, paths: Vec<Path>) -> Vec<Result<Path>> {
        let mut is_repeated = false;
        let attempt = || {
            let may_be_gone = std::mem::replace(&mut is_repeated, true);
            let paths = paths.clone();
            async move {
                let deleted = self.inner.delete_stream(stream::iter(paths.clone()).map(Ok).boxed());
                let mut results = Vec::new();
                for (path, result) in paths.into_iter().zip(deleted.collect::<Vec<_>>().await) {
                    match result {
                        Err(error) if may_pass(&error) => return Err(error),
                        Err(Error::NotFound { .. }) if may_be_gone => results.push(Ok(path)),
                        result => results.push(result),
                    }
                }
                Ok(results)
            }
        };
        self.retry("delete", attempt).await.unwrap_or_else(|error| vec![Err(error)])
    }
}

#[async_trait::async_trait]
impl ObjectStore for RetryingStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        match options.mode {
            PutMode::Overwrite => {
                self.retry("put", || self.inner.put_opts(location, payload.clone(), options.clone())).await
            }
            PutMode::Create | PutMode::Update(_) => self.inner.put_opts(location, payload, options).await,
        }
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        // If the answer is lost, the bucket keeps an empty upload, as after a killed writer.
        self.retry("start an upload", || self.inner.put_multipart_opts(location, options.clone())).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let result = self.retry("get", || self.inner.get_opts(location, options.clone())).await?;
        Ok(self.resuming(options, result))
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        match self.inner.get_ranges(location, ranges).await {
            Err(error) if may_pass(&error) => {
                tracing::warn!(%error, "transient error of the object store, reading range by range");
                let read = |range| self.get_range(location, range);
                coalesce_ranges(ranges, read, OBJECT_STORE_COALESCE_DEFAULT).await
            }
            result => result,
        }
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let store = self.clone();
        let deleted = locations.try_chunks(DELETED_AT_ONCE).then(move |chunk| {
            let store = store.clone();
            async move {
                match chunk {
                    Ok(paths) => stream::iter(store.delete_all(paths).await),
                    Err(error) => stream::iter(vec![Err(error.1)]),
                }
            }
        });
        deleted.flatten().boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.list_from(prefix, None)
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        self.list_from(prefix, Some(offset))
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.retry("list", || self.inner.list_with_delimiter(prefix)).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        match options.mode {
            CopyMode::Overwrite => {
                self.retry("copy", || self.inner.copy_opts(from, to, options.clone())).await
            }
            CopyMode::Create => self.inner.copy_opts(from, to, options).await,
        }
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        self.inner.rename_opts(from, to, options).await
    }
}

/// The body of a get.
struct Body {
    rest: Rest,
    chunks: BoxStream<'static, Result<Bytes>>,
}

/// What has not come yet of the body of a get.
struct Rest {
    store: RetryingStore,
    options: GetOptions,
    /// The object as the first answer describes it.
    meta: ObjectMeta,
    /// The bytes of the object that are missing.
    left: Range<u64>,
}

impl Body {
    fn into_stream(self) -> BoxStream<'static, Result<Bytes>> {
        let next = |mut body: Self| async move { Ok(body.next().await?.map(|chunk| (chunk, body))) };
        stream::try_unfold(self, next).boxed()
    }

    async fn next(&mut self) -> Result<Option<Bytes>> {
        let rest = &mut self.rest;
        if rest.left.is_empty() {
            return Ok(None);
        }
        let chunk = match self.chunks.try_next().await {
            Ok(Some(chunk)) => chunk,
            Err(error) if !may_pass(&error) => return Err(error),
            broken => {
                let error = broken.err().unwrap_or_else(cut_short);
                let (object, at) = (&rest.meta.location, rest.left.start);
                tracing::warn!(%object, at, %error, "a body broke off, continuing it");
                let (chunk, chunks) = rest.store.retry("continue a body", || rest.open()).await?;
                self.chunks = chunks;
                chunk
            }
        };
        rest.left.start += chunk.len() as u64;
        Ok(Some(chunk))
    }
}

impl Rest {
    /// Gets the missing bytes: their first chunk, and the stream of the others.
    async fn open(&self) -> Result<(Bytes, BoxStream<'static, Result<Bytes>>)> {
        let (first, meta) = (&self.options, &self.meta);
        let options = GetOptions {
            range: Some(GetRange::Bounded(self.left.clone())),
            if_match: meta.e_tag.clone().or_else(|| first.if_match.clone()),
            version: meta.version.clone().or_else(|| first.version.clone()),
            ..first.clone()
        };
        let result = self.store.inner.get_opts(&meta.location, options).await?;
        if result.range.start != self.left.start || !is_same_object(meta, &result.meta) {
            let source = "the object was replaced while it was read".into();
            return Err(Error::Precondition { path: meta.location.to_string(), source });
        }
        let mut chunks = result.into_stream();
        while let Some(chunk) = chunks.try_next().await? {
            if !chunk.is_empty() {
                return Ok((chunk, chunks));
            }
        }
        Err(cut_short())
    }
}

/// The error of a body that ends before its length.
fn cut_short() -> Error {
    Error::Generic { store: "RetryingStore", source: io::Error::from(io::ErrorKind::UnexpectedEof).into() }
}

/// Whether two answers are about the same bytes.
fn is_same_object(a: &ObjectMeta, b: &ObjectMeta) -> bool {
    let is_same_tag = if a.e_tag.is_some() { a.e_tag == b.e_tag } else { a.last_modified == b.last_modified };
    is_same_tag && a.size == b.size
}

/// What is still to come of a listing.
struct Listing {
    store: RetryingStore,
    prefix: Option<Path>,
    /// The last path returned, or the one after which the listing begins.
    offset: Option<Path>,
    /// The listing of the store below, once it has begun.
    objects: Option<BoxStream<'static, Result<ObjectMeta>>>,
}

impl Listing {
    fn into_stream(self) -> BoxStream<'static, Result<ObjectMeta>> {
        let next =
            |mut listing: Self| async move { Ok(listing.next().await?.map(|object| (object, listing))) };
        stream::try_unfold(self, next).boxed()
    }

    async fn next(&mut self) -> Result<Option<ObjectMeta>> {
        let object = match &mut self.objects {
            None => self.begin().await?,
            Some(objects) => match objects.try_next().await {
                Err(error) if may_pass(&error) && self.store.order == ListOrder::ByPath => {
                    tracing::warn!(behind = ?self.offset, %error, "a listing broke off, continuing it");
                    self.begin().await?
                }
                object => object?,
            },
        };
        if let Some(object) = &object
            && self.store.order == ListOrder::ByPath
        {
            self.offset = Some(object.location.clone());
        }
        Ok(object)
    }

    /// Begins the listing after the offset, and returns its first object.
    async fn begin(&mut self) -> Result<Option<ObjectMeta>> {
        let (store, prefix, offset) = (&self.store.inner, self.prefix.as_ref(), self.offset.as_ref());
        let attempt = || async move {
            let mut objects = match offset {
                Some(offset) => store.list_with_offset(prefix, offset),
                None => store.list(prefix),
            };
            let first = objects.try_next().await?;
            Ok((first, objects))
        };
        let (first, objects) = self.store.retry("list", attempt).await?;
        self.objects = Some(objects);
        Ok(first)
    }
}

#[cfg(test)]
mod tests;
