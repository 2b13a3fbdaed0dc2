use perennial_schemas::seed::Seed;
use tch::Device;

use super::*;
use crate::checkpoint::{MODEL, TensorFile, note, save, start_file, start_model};
use crate::testing::{distance, learn, learned, train_config};

fn position() -> JobPosition {
    JobPosition { tokens: 123, ..crate::testing::position() }
}

fn names(windows: &[u32], shares: &[f64]) -> Vec<String> {
    Weights::all(windows, shares).iter().map(Weights::name).collect()
}

/// The tensors of a file as a job that starts from it has them.
fn read(path: &Path) -> Vec<Tensor> {
    let start = start_file(path).unwrap();
    let model = start_model(&start, &train_config(), Device::Cpu).unwrap();
    model.tensors().map(Tensor::detach).collect()
}

fn files(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn names_say_what_weights_are() {
    assert_eq!(names(&[], &[]), ["live"]);
    assert_eq!(names(&[120, 7], &[]), ["live", "average-120", "average-7"]);
    assert_eq!(names(&[120], &[0.85, 1.0]), ["live", "average-120", "average-120@0.85", "average-120@1"]);
    assert_eq!(names(&[], &[0.5]), ["live", "live@0.5"], "without an average, from the last weights");
}

#[test]
fn a_release_holds_the_weights_that_its_names_say() {
    let dir = tempfile::tempdir().unwrap();
    let learner = learned(6);
    let checkpoint = save(dir.path(), &learner, &position(), 1).unwrap();
    let start = start_model(&position().start, &train_config(), Device::Cpu).unwrap();
    let all = Weights::all(&[4], &[0.25]);
    let release = write(&checkpoint, &learner, &position(), &all, Some(&start)).unwrap();
    assert_eq!(release, dir.path().join("release/step-6"));
    let wanted = ["average-4.safetensors", "average-4@0.25.safetensors", "live.safetensors", "release.json"];
    assert_eq!(files(&release), wanted);

    // The last weights are the checkpoint's, to the byte.
    let bytes = |path: PathBuf| fs::read(path).unwrap();
    assert_eq!(bytes(release.join("live.safetensors")), bytes(checkpoint.join(MODEL)));
    let average = read(&release.join("average-4.safetensors"));
    assert!(average.iter().zip(learner.averages().all()[0].values()).all(|(a, b)| a.equal(b)));
    let between = read(&release.join("average-4@0.25.safetensors"));
    for ((start, average), between) in start.tensors().zip(&average).zip(&between) {
        let wanted = start.detach() * 0.75 + average * 0.25;
        assert!(distance(&wanted, between) < 1e-6);
        assert!(start.dim() < 2 || distance(&start.detach(), between) > 1e-6, "it has left the start");
    }

    let found = manifest(&release).unwrap().unwrap();
    assert_eq!((found.job.as_str(), found.step, found.tokens), ("test", Step(6), 123));
    assert_eq!((found.model, found.start), (train_config().model, position().start));
    for (file, wanted) in &found.files {
        assert_eq!(note(&release.join(file)).unwrap(), *wanted, "{file}");
        let tensors = TensorFile::open(&release.join(file)).unwrap().names();
        assert_eq!(tensors, TensorFile::open(&checkpoint.join(MODEL)).unwrap().names(), "{file}");
    }
    assert_eq!(found.files.len(), 3);
}

#[test]
fn a_release_that_is_there_is_left_alone_unless_it_is_another() {
    let dir = tempfile::tempdir().unwrap();
    let learner = learned(2);
    let checkpoint = save(dir.path(), &learner, &position(), 1).unwrap();
    let plain = Weights::all(&[4], &[]);
    let release = write(&checkpoint, &learner, &position(), &plain, None).unwrap();
    let mark = release.join("mark");
    fs::write(&mark, b"").unwrap();
    write(&checkpoint, &learner, &position(), &plain, None).unwrap();
    assert!(mark.exists(), "the same release is not written again");

    // A kill between the two renames: the release is where it was, not written again.
    fs::rename(&release, release.with_extension("replaced")).unwrap();
    write(&checkpoint, &learner, &position(), &plain, None).unwrap();
    assert!(mark.exists() && !release.with_extension("replaced").exists());

    // Another list of weights, and what a kill left behind.
    fs::create_dir(release.with_extension("partial")).unwrap();
    fs::create_dir(release.with_extension("replaced")).unwrap();
    let start = start_model(&position().start, &train_config(), Device::Cpu).unwrap();
    let more = Weights::all(&[4], &[1.0]);
    write(&checkpoint, &learner, &position(), &more, Some(&start)).unwrap();
    assert!(!mark.exists() && release.join("average-4@1.safetensors").exists());
    assert_eq!(files(&dir.path().join(FOLDER)), ["step-2"]);

    // Other weights of the same step.
    fs::write(&mark, b"").unwrap();
    let mut other = Learner::init(&train_config(), Seed::new(12), Device::Cpu).unwrap();
    learn(&mut other, 2);
    let checkpoint = save(dir.path(), &other, &position(), 1).unwrap();
    write(&checkpoint, &other, &position(), &more, Some(&start)).unwrap();
    assert!(!mark.exists());
}

#[test]
fn the_whole_way_is_the_average_and_what_is_not_kept_is_not_there() {
    let learner = learned(3);
    let start = start_model(&position().start, &train_config(), Device::Cpu).unwrap();
    let values_of = |weights: Weights, start: Option<&Decoder>| weights.values(&learner, start).unwrap();
    let [_, average, whole] = Weights::all(&[4], &[1.0])[..] else { panic!("three") };
    let (average, whole) = (values_of(average, None).unwrap(), values_of(whole, Some(&start)).unwrap());
    assert!(average.iter().zip(&whole).all(|(a, b)| distance(a, b) < 1e-6));
    assert!(values_of(Weights::all(&[5], &[])[1], None).is_none(), "no such window");
    assert!(values_of(Weights::all(&[4], &[0.5])[2], None).is_none(), "no start");
}
