use std::ffi::OsStr;
use std::fs;
use std::io::ErrorKind::{self, Other, PermissionDenied};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use super::super::SourceError;
use super::super::file::Files;
use super::{Bench, brief, source};

#[test]
fn name_that_is_no_utf_8_is_passed_over_in_a_folder_and_tried_again() {
    let folder = tempfile::tempdir().unwrap();
    let odd = folder.path().join(OsStr::from_bytes(b"b\xFF.jsonl"));
    let dir = folder.path().join(OsStr::from_bytes(b"d\xFF"));
    fs::write(folder.path().join("a.jsonl"), "a").unwrap();
    fs::write(&odd, "b").unwrap();
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("e.jsonl"), "e").unwrap();
    fs::write(folder.path().join("c.jsonl"), "c").unwrap();
    let source = source("s", folder.path());
    let mut bench = Bench::default();
    assert_eq!(brief(&bench.look(&source, false)), ["a", "c"]);
    let walk = super::super::walk::files(&source, false).unwrap();
    let mut refused: Vec<_> = walk.refused.iter().map(SourceError::path).collect();
    refused.sort();
    assert_eq!(refused, [&odd, &dir]);
    assert!(walk.refused.iter().all(|error| matches!(error, SourceError::Name { .. })));
    fs::rename(&odd, folder.path().join("b.jsonl")).unwrap();
    assert_eq!(brief(&bench.look(&source, false)), ["b"], "it is tried again");
}

#[test]
fn file_that_may_not_be_read_is_passed_over_in_a_folder_and_an_error_as_the_path_of_a_source() {
    let denied = |path: &str, kind: ErrorKind| {
        let (name, path) = ("s".to_owned(), path.into());
        Err::<Option<()>, _>(SourceError::Io { name, act: "open", path, source: kind.into() })
    };
    let mut files = Files::default();
    let source = source("s", Path::new("x"));
    assert!(matches!(files.admit(&source, denied("x/a.jsonl", PermissionDenied)), Ok(None)));
    assert_eq!(files.warned(), 1);
    assert!(matches!(files.admit(&source, denied("x/a.jsonl", PermissionDenied)), Ok(None)));
    assert_eq!(files.warned(), 1, "it is said once");
    assert!(files.admit(&source, denied("x", PermissionDenied)).is_err());
    assert!(files.admit(&source, denied("x/a.jsonl", Other)).is_err());
    assert!(matches!(files.admit(&source, Ok(Some(()))), Ok(Some(()))));
    files.forget(&source, &super::super::walk::Walk::default());
    assert_eq!(files.warned(), 0, "it was removed");
}

#[test]
fn files_that_are_gone_are_forgotten_and_those_of_other_sources_are_not() {
    let folder = tempfile::tempdir().unwrap();
    let (x, y) = (folder.path().join("x"), folder.path().join("y"));
    for path in [&x, &y] {
        fs::create_dir(path).unwrap();
        fs::write(path.join("a.jsonl"), "a\n").unwrap();
        fs::write(path.join("b.jsonl"), "b\n").unwrap();
    }
    let mut bench = Bench::default();
    for source in [source("x", &x), source("y", &y)] {
        assert_eq!(bench.look(&source, true).len(), 2);
    }
    assert_eq!(bench.files.known(), 4);
    fs::remove_file(x.join("a.jsonl")).unwrap();
    assert_eq!(bench.look(&source("x", &x), true), []);
    assert_eq!(bench.files.known(), 3);
}
