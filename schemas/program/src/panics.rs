//! Suppresses the message of one panic that is not a defect, and of no other.
//!
//! If the end of an upload fails, for example on a full disk, delta-rs asks the uploader to abort. The
//! uploader panics if it has ended already; delta-rs expects that, catches it and returns the error that
//! matters. The panic's text and backtrace would hide that error.

use std::panic::{PanicHookInfo, set_hook, take_hook};
use std::sync::Once;

/// From now on prints nothing about an upload that is aborted after its end. Further calls have no effect.
pub(super) fn silence_ended_uploads() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let print = take_hook();
        set_hook(Box::new(move |panic| {
            if !is_ended_upload(panic) {
                print(panic);
            }
        }));
    });
}

fn is_ended_upload(panic: &PanicHookInfo<'_>) -> bool {
    let file = panic.location().map_or("", std::panic::Location::file);
    is_its_place_and_text(file, panic.payload_as_str().unwrap_or_default())
}

/// Whether `file` and `text` are those of the panic in `BufWriter::abort` after the end of an upload.
fn is_its_place_and_text(file: &str, text: &str) -> bool {
    file.contains("object_store") && file.ends_with("src/buffered.rs") && text == "Already shut down"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_panic_of_an_ended_upload_is_kept_quiet() {
        let (file, text) = ("registry/src/index/object_store-0.13.2/src/buffered.rs", "Already shut down");
        assert!(is_its_place_and_text(file, text));
        for (file, text) in [
            (file, "called `Option::unwrap()` on a `None` value"),
            ("registry/src/index/other-1.0.0/src/buffered.rs", text),
            ("registry/src/index/object_store-0.13.2/src/upload.rs", text),
            ("ingest/src/write.rs", text),
        ] {
            assert!(!is_its_place_and_text(file, text), "{file}: {text}");
        }
    }
}
