//! Stores at `s3://`: makes the client from the options of `[store.options]` and the `AWS_*` variables.
//!
//! The object store's own S3 client does all that a store needs (conditional puts, temporary credentials
//! of a web identity, a container or an instance), so Delta's, which brings the whole AWS SDK, stays out.

use std::sync::{Arc, Once};

use deltalake::logstore::{
    LogStore, LogStoreFactory, ObjectStoreFactory, ObjectStoreRef, StorageConfig,
    client_options_from_certificate, default_logstore, logstore_factories, object_store_factories,
};
use deltalake::{DeltaResult, DeltaTableError};
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::path::Path;
use url::Url;

/// From now on Delta opens tables at `s3://` with [`Bucket`]. Further calls change nothing.
pub(crate) fn register() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // The literal is a URL; a scheme that were none would leave `s3://` unknown, with Delta's own error.
        let Ok(scheme) = Url::parse("s3://") else { return };
        object_store_factories().insert(scheme.clone(), Arc::new(Bucket));
        logstore_factories().insert(scheme, Arc::new(Bucket));
    });
}

#[derive(Debug)]
struct Bucket;

impl ObjectStoreFactory for Bucket {
    fn parse_url_opts(&self, url: &Url, config: &StorageConfig) -> DeltaResult<(ObjectStoreRef, Path)> {
        let mut builder = AmazonS3Builder::from_env().with_url(url.as_str()).with_retry(config.retry.clone());
        if let Some(path) = config.certificate.as_ref().and_then(|given| given.certificate_path.as_ref()) {
            builder = builder.with_client_options(client_options_from_certificate(path)?);
        }
        // Those that are not of retries, limits or certificates.
        for (name, value) in &config.unknown_properties {
            let key: AmazonS3ConfigKey = name
                .to_ascii_lowercase()
                .parse()
                .map_err(|_| DeltaTableError::Generic(format!("`{name}` is not an option of an S3 store")))?;
            builder = builder.with_config(key, value);
        }
        Ok((Arc::new(builder.build()?), Path::from_url_path(url.path())?))
    }
}

impl LogStoreFactory for Bucket {
    fn with_options(
        &self,
        prefixed_store: ObjectStoreRef,
        root_store: ObjectStoreRef,
        location: &Url,
        options: &StorageConfig,
    ) -> DeltaResult<Arc<dyn LogStore>> {
        Ok(default_logstore(prefixed_store, root_store, location, options))
    }
}
