use std::collections::BTreeMap;

use perennial_program::error::ProgramError;

use super::*;
use crate::testing::{delivery, learn, learned, numbers, train_config};

fn position() -> JobPosition {
    let next = delivery(2, &train_config().model).next;
    JobPosition { tokens: 123, next, ..crate::testing::position() }
}

/// The checkpoint, for a job that changes nothing.
fn load(path: &Path) -> Result<Resumed, CheckpointError> {
    super::load(path, Device::Cpu, |_| {})
}

fn same(a: &Learner, b: &Learner) {
    let tensors = |learner: &Learner| {
        let mut all = weights(&learner.model);
        // Other tests draw from the same generator.
        all.extend(rest(learner).unwrap().into_iter().filter(|(name, _)| name != "rng.cpu"));
        all
    };
    let (a, b) = (tensors(a), tensors(b));
    assert_eq!(a.len(), b.len());
    for ((name, a), (other, b)) in a.iter().zip(&b) {
        assert!(name == other && a.equal(b), "{name}");
    }
}

#[test]
fn a_checkpoint_gives_back_everything() {
    let dir = tempfile::tempdir().unwrap();
    let learner = learned(3);
    let path = save(dir.path(), &learner, &position(), 5).unwrap();
    assert_eq!(path, dir.path().join("step-3"));
    let Resumed { learner: read, state } = load(&path).unwrap();
    same(&learner, &read);
    assert_eq!(
        (read.at(), read.averages().updates(), read.train_config()),
        (Step(3), 3, learner.train_config())
    );
    assert_eq!(
        (state.job.as_str(), state.tokens, state.next.row, &state.next),
        ("test", 123, 6, &position().next)
    );
    assert!(state.libtorch.starts_with("2.11.") && !state.isa.is_empty());
    let start = start_model(&state.start, &state.train_config, Device::Cpu).unwrap();
    let fresh = learned(0);
    assert!(start.tensors().zip(fresh.model.tensors()).all(|(a, b)| a.equal(b)));
}

#[test]
fn the_same_state_gives_the_same_files() {
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let [a, b] = [a.path(), b.path()].map(|dir| {
        let path = save(dir, &learned(2), &position(), 1).unwrap();
        fs::read(path.join(MODEL)).unwrap()
    });
    assert_eq!(a, b);
}

#[test]
fn weights_can_be_read_by_others() {
    let dir = tempfile::tempdir().unwrap();
    let learner = learned(1);
    let path = save(dir.path(), &learner, &position(), 1).unwrap().join(MODEL);
    let bytes = fs::read(&path).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(file.len(), learner.model.parameters().len());
    let view = file.tensor("model.layers.1.self_attn.k_proj.weight").unwrap();
    assert_eq!(view.shape(), [16, 32]);
    let first = f32::from_le_bytes(view.data()[..4].try_into().unwrap());
    let wanted =
        learner.model.parameters().iter().find(|p| p.name.contains("layers.1.self_attn.k_proj")).unwrap();
    assert_eq!(f64::from(first).to_bits(), wanted.tensor.double_value(&[0, 0]).to_bits());
    let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    assert_eq!(header.metadata().as_ref().unwrap()["format"], "pt");
}

#[test]
fn only_the_newest_are_kept_and_leftovers_go() {
    let dir = tempfile::tempdir().unwrap();
    let mut learner = learned(0);
    fs::create_dir(dir.path().join("step-9.partial")).unwrap();
    fs::create_dir(dir.path().join("notes")).unwrap();
    for step in 1..=4 {
        learn(&mut learner, step);
        save(dir.path(), &learner, &position(), 2).unwrap();
    }
    let mut names: Vec<String> = fs::read_dir(dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["notes", "step-3", "step-4"]);
    assert_eq!(latest(dir.path()).unwrap(), dir.path().join("step-4"));
}

#[test]
fn a_checkpoint_of_the_same_step_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let learner = learned(1);
    save(dir.path(), &learner, &position(), 2).unwrap();
    let path = save(dir.path(), &learner, &JobPosition { tokens: 999, ..position() }, 2).unwrap();
    assert_eq!(state(&path).unwrap().tokens, 999);
    assert_eq!(complete(dir.path()).unwrap().len(), 1);
}

#[test]
fn a_save_that_was_interrupted_while_replacing_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut learner = learned(1);
    let path = save(dir.path(), &learner, &position(), 1).unwrap();
    // As a kill between the two renames leaves it.
    let old = dir.path().join("step-1.replaced");
    fs::rename(&path, &old).unwrap();
    fs::create_dir(dir.path().join("step-1.partial")).unwrap();
    assert_eq!(latest(dir.path()).unwrap(), old);
    same(&learner, &load(&old).unwrap().learner);
    save(dir.path(), &learner, &position(), 1).unwrap();
    assert_eq!(complete(dir.path()).unwrap(), [(Step(1), path)]);
    learn(&mut learner, 2);
    save(dir.path(), &learner, &position(), 1).unwrap();
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn the_newest_is_found_by_its_number_and_only_if_complete() {
    let dir = tempfile::tempdir().unwrap();
    assert!(matches!(latest(&dir.path().join("absent")), Err(CheckpointError::None { .. })));
    for name in ["step-9", "step-10", "step-11.partial", "step-x", "step-012", "step-"] {
        fs::create_dir(dir.path().join(name)).unwrap();
    }
    assert_eq!(latest(dir.path()).unwrap(), dir.path().join("step-10"));
}

/// Damages the second of two checkpoints and reads it: the refusal's cause and hint.
fn refused(damage: impl Fn(&Path)) -> (String, String) {
    let dir = tempfile::tempdir().unwrap();
    let mut learner = learned(1);
    save(dir.path(), &learner, &position(), 5).unwrap();
    learn(&mut learner, 2);
    let path = save(dir.path(), &learner, &position(), 5).unwrap();
    damage(&path);
    let error = load(&path).unwrap_err();
    let hint = error.hint().unwrap();
    assert!(hint.contains("step-1`, the complete checkpoint before it"), "{hint}");
    assert_eq!(error.to_string(), format!("checkpoint `{}` cannot be used", path.display()));
    (std::error::Error::source(&error).unwrap().to_string(), hint)
}

/// Writes other tensors into a checkpoint as if it had been made with them.
fn replaced(path: &Path, name: &str, change: fn(&mut BTreeMap<String, Tensor>)) {
    let file = path.join(name);
    let mut open = TensorFile::open(&file).unwrap();
    let mut all: BTreeMap<String, Tensor> =
        open.names().into_iter().map(|name| (name.clone(), open.read(&name).unwrap())).collect();
    change(&mut all);
    fs::remove_file(&file).unwrap();
    let note = write_tensors(&file, &all.into_iter().collect::<Vec<_>>()).unwrap();
    let mut state = state(path).unwrap();
    state.files.insert(name.to_owned(), note);
    fs::write(path.join(STATE), serde_json::to_vec(&state).unwrap()).unwrap();
}

#[test]
fn a_truncated_or_changed_file_is_refused() {
    let (text, _) = refused(|path| {
        let file = fs::OpenOptions::new().write(true).open(path.join(TRAINER)).unwrap();
        file.set_len(1_000).unwrap();
    });
    assert!(text.contains("it is 1000 bytes long, not "), "{text}");
    let (text, _) = refused(|path| {
        let mut bytes = fs::read(path.join(MODEL)).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(path.join(MODEL), bytes).unwrap();
    });
    assert!(text.ends_with("its bytes have changed"), "{text}");
    let (text, _) = refused(|path| fs::remove_file(path.join(MODEL)).unwrap());
    assert!(text.starts_with("cannot read"), "{text}");
    let (text, _) = refused(|path| fs::write(path.join(STATE), b"{\"format\": 2").unwrap());
    assert!(text.contains("is damaged"), "{text}");
}

#[test]
fn missing_extra_and_misshapen_tensors_are_refused_by_name() {
    let (text, _) = refused(|path| {
        replaced(path, TRAINER, |all| {
            all.remove("exp_avg_sq.model.norm.weight");
        });
    });
    assert!(text.ends_with("missing `exp_avg_sq.model.norm.weight`, not expected none"), "{text}");
    let (text, _) = refused(|path| {
        replaced(path, MODEL, |all| {
            all.insert("model.other".into(), numbers(1, &[3]));
        });
    });
    assert!(text.ends_with("missing none, not expected `model.other`"), "{text}");
    let (text, _) = refused(|path| {
        replaced(path, TRAINER, |all| {
            all.insert("average.4.model.norm.weight".into(), numbers(1, &[3]));
        });
    });
    assert!(
        text.contains("`average.4.model.norm.weight`") && text.ends_with("has shape [3], not [32]"),
        "{text}"
    );
    let (text, _) = refused(|path| {
        replaced(path, TRAINER, |all| {
            let step = all["step.model.norm.weight"].to_kind(tch::Kind::Int64);
            all.insert("step.model.norm.weight".into(), step);
        });
    });
    assert!(text.contains("`step.model.norm.weight`") && text.ends_with("numbers of type I64"), "{text}");
}

#[test]
fn a_newer_format_is_refused_even_if_it_has_unknown_keys() {
    let (text, hint) = refused(|path| {
        fs::write(path.join(STATE), b"{\"format\": 4, \"colour\": \"blue\"}").unwrap();
    });
    assert!(text.ends_with("has format 4; this program reads up to 3"), "{text}");
    assert!(hint.starts_with("resume with the release"), "{hint}");
}

#[test]
fn an_older_format_is_refused_with_the_way_to_its_weights() {
    let (text, hint) = refused(|path| {
        fs::write(path.join(STATE), b"{\"format\": 1, \"recipe\": {}}").unwrap();
    });
    assert!(text.ends_with("has format 1; this program reads format 3"), "{text}");
    assert!(hint.contains("set `job.start` to the checkpoint's folder"), "{hint}");
}

#[test]
fn the_first_checkpoint_has_none_before_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = save(dir.path(), &learned(1), &position(), 5).unwrap();
    fs::remove_file(path.join(TRAINER)).unwrap();
    let hint = load(&path).unwrap_err().hint().unwrap();
    assert!(hint.contains("no complete checkpoint before it"), "{hint}");
}

#[test]
fn a_start_from_a_file_is_read_again_unless_it_changed() {
    let dir = tempfile::tempdir().unwrap();
    let learner = learned(1);
    let file = save(dir.path(), &learner, &position(), 5).unwrap().join(MODEL);
    let start = Start::File { path: file.clone(), note: note(&file).unwrap() };
    let second = save(&dir.path().join("b"), &learned(2), &JobPosition { start, ..position() }, 5).unwrap();
    let state = state(&second).unwrap();
    let read = start_model(&state.start, &state.train_config, Device::Cpu).unwrap();
    assert!(read.tensors().zip(learner.model.tensors()).all(|(a, b)| a.equal(b)));
    fs::write(&file, b"other").unwrap();
    assert!(matches!(
        start_model(&state.start, &state.train_config, Device::Cpu),
        Err(CheckpointError::Broken { .. })
    ));
}

#[test]
fn a_file_that_is_no_safetensors_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x");
    let huge = [u64::MAX.to_le_bytes().to_vec(), vec![0; 8]].concat();
    let gap = [3_u64.to_le_bytes().to_vec(), b"{} ".to_vec(), b"x".to_vec()].concat();
    // Eight tensors that together end where no number of a file's bytes can.
    let size = u64::MAX / 8;
    let part = |k: u64| {
        format!(
            r#""t{k}":{{"dtype":"U8","shape":[{size}],"data_offsets":[{},{}]}}"#,
            k * size,
            (k + 1) * size
        )
    };
    let header = format!("{{{}}}", (0..8).map(part).collect::<Vec<_>>().join(","));
    let endless = [&(header.len() as u64).to_le_bytes(), header.as_bytes()].concat();
    for bytes in [&b""[..], b"1234", &huge, &gap, &endless] {
        fs::write(&path, bytes).unwrap();
        assert!(matches!(TensorFile::open(&path), Err(CheckpointError::Broken { .. })), "{bytes:?}");
    }
}
