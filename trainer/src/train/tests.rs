use std::cell::RefCell;
use std::collections::BTreeMap;

use schemas::seed::Seed;
use tch::{Device, Tensor};

use super::*;
use crate::checkpoint::{Resumed, Start, load};
use crate::metrics::Line;
use crate::testing::{delivery, recipe};

fn feed(from: u64, until: u64) -> Feed {
    let mut step = from;
    Feed::Direct(Box::new(move || {
        step += 1;
        Ok((step <= until).then(|| delivery(step - 1, &recipe().model)))
    }))
}

fn progress() -> Progress {
    Progress {
        job: "test".into(),
        tokens: 0,
        row: 0,
        next: BTreeMap::new(),
        config: "0".repeat(32),
        start: Start::Seed(Seed::new(11)),
        branched: None,
    }
}

fn plan(dir: &Path) -> Plan {
    let every = vec![(3, Act::Metrics), (4, Act::Evaluate), (5, Act::Checkpoint)];
    Plan { dir: dir.to_owned(), until: None, every, keep: 10 }
}

fn fresh() -> Learner {
    Learner::fresh(&recipe(), Seed::new(11), Device::Cpu).unwrap()
}

fn run(
    learner: &mut Learner,
    progress: &mut Progress,
    feed: &mut Feed,
    plan: &Plan,
    hooks: Hooks<'_>,
) -> Report {
    let ended = train(learner, progress, feed, plan, hooks, &Clock::manual(0), &Stop::new());
    ended.unwrap_or_else(|failure| panic!("{failure}"))
}

/// Runs and gives every step's loss.
fn curve(learner: &mut Learner, progress: &mut Progress, feed: &mut Feed, plan: &Plan) -> Vec<u64> {
    let losses = RefCell::new(Vec::new());
    let observe = |_: &Delivery, outcome: &Outcome| {
        losses.borrow_mut().push(outcome.loss.unwrap().to_bits());
        Ok(())
    };
    run(learner, progress, feed, plan, Hooks { observe: Box::new(observe), ..Hooks::default() });
    losses.into_inner()
}

fn lines(dir: &Path) -> Vec<Line> {
    let text = std::fs::read_to_string(dir.join("metrics.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn a_resumed_job_gives_the_bits_of_one_that_never_stopped() {
    let (straight, stopped) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (mut learner, mut at) = (fresh(), progress());
    let whole = curve(&mut learner, &mut at, &mut feed(0, 14), &plan(straight.path()));

    // It runs to step 8, having saved at 5; the end's own checkpoint is lost, as a kill would have it.
    let first = {
        let (mut learner, mut at) = (fresh(), progress());
        let first = curve(&mut learner, &mut at, &mut feed(0, 8), &plan(stopped.path()));
        std::fs::remove_dir_all(stopped.path().join("step-8")).unwrap();
        first
    };
    let path = checkpoint::latest(stopped.path()).unwrap();
    let Resumed { learner: mut resumed, state } = load(&path, Device::Cpu).unwrap();
    assert_eq!(state.step, Step(5));
    let mut back = state.progress();
    let second = curve(&mut resumed, &mut back, &mut feed(5, 14), &plan(stopped.path()));

    assert_eq!(whole, [&first[..5], &second[..]].concat());
    for (a, b) in learner.model().parameters().iter().zip(resumed.model().parameters()) {
        assert!(a.tensor.equal(&b.tensor), "{}", a.name);
    }
    let averages = |learner: &Learner| -> Vec<Tensor> {
        learner
            .averages()
            .all()
            .iter()
            .flat_map(|one| one.values().iter().map(Tensor::shallow_clone))
            .collect()
    };
    assert!(averages(&learner).iter().zip(averages(&resumed)).all(|(a, b)| a.equal(&b)));
    assert_eq!(at, back);
    assert_eq!(lines(straight.path()), lines(stopped.path()));
    let [a, b] = [straight.path(), stopped.path()]
        .map(|dir| std::fs::read(dir.join("step-14/model.safetensors")).unwrap());
    assert_eq!(a, b);
}

#[test]
fn what_happens_every_so_many_steps_happens_then_and_at_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let evaluated = RefCell::new(Vec::new());
    let evaluate = |learner: &Learner| {
        evaluated.borrow_mut().push(learner.at().0);
        Ok(())
    };
    let hooks = Hooks { evaluate: Box::new(evaluate), ..Hooks::default() };
    let (mut learner, mut at) = (fresh(), progress());
    let report = run(&mut learner, &mut at, &mut feed(0, 11), &plan(dir.path()), hooks);
    assert_eq!((report.end, report.steps), (End::Stream, Step(11)));
    assert_eq!(report.checkpoint, dir.path().join("step-11"));
    assert_eq!(evaluated.into_inner(), [4, 8]);
    // A checkpoint closes its interval, so that no line spans it.
    let steps: Vec<u64> = lines(dir.path()).iter().map(|line| line.step.0).collect();
    assert_eq!(steps, [3, 5, 6, 9, 10, 11]);
    let saved: Vec<u64> = checkpoint::complete(dir.path()).unwrap().iter().map(|(step, _)| step.0).collect();
    assert_eq!(saved, [5, 10, 11]);
    assert_eq!((at.row, &at.next), (22, &delivery(10, &recipe().model).next));
    assert_eq!(at.tokens, lines(dir.path()).last().unwrap().tokens);
}

#[test]
fn a_job_ends_at_its_step_and_when_it_is_asked_to() {
    let dir = tempfile::tempdir().unwrap();
    let plan = Plan { until: Some(Step(5)), ..plan(dir.path()) };
    let (mut learner, mut at) = (fresh(), progress());
    let report = run(&mut learner, &mut at, &mut feed(0, 100), &plan, Hooks::default());
    assert_eq!((report.end, report.steps), (End::Done, Step(5)));

    let stop = Stop::new();
    let observe = |_: &Delivery, outcome: &Outcome| {
        if outcome.step == Step(6) {
            stop.trigger();
        }
        Ok(())
    };
    let hooks = Hooks { observe: Box::new(observe), ..Hooks::default() };
    let plan = Plan { until: None, ..plan };
    let ended = train(&mut learner, &mut at, &mut feed(5, 100), &plan, hooks, &Clock::manual(0), &stop);
    let report = ended.unwrap_or_else(|failure| panic!("{failure}"));
    assert_eq!((report.end, report.steps), (End::Stopped, Step(7)));
    assert_eq!(report.checkpoint, dir.path().join("step-7"));
}

#[test]
fn a_stop_while_waiting_for_text_is_no_end_of_the_stream() {
    let (dir, stop) = (tempfile::tempdir().unwrap(), Stop::new());
    let (asked, mut step) = (stop.clone(), 0);
    let mut feed = Feed::Direct(Box::new(move || {
        step += 1;
        if step > 3 {
            asked.trigger();
            return Ok(None);
        }
        Ok(Some(delivery(step - 1, &recipe().model)))
    }));
    let (mut learner, mut at) = (fresh(), progress());
    let plan = plan(dir.path());
    let ended = train(&mut learner, &mut at, &mut feed, &plan, Hooks::default(), &Clock::manual(0), &stop);
    let report = ended.unwrap_or_else(|failure| panic!("{failure}"));
    assert_eq!((report.end, report.steps), (End::Stopped, Step(3)));
    assert_eq!(report.checkpoint, dir.path().join("step-3"));
}

#[test]
fn a_failed_step_leaves_the_checkpoint_before_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut step = 0;
    let mut feed = Feed::Direct(Box::new(move || {
        step += 1;
        let mut made = delivery(step - 1, &recipe().model);
        if step == 7 {
            made.ticket.step = Step(99);
        }
        Ok(Some(made))
    }));
    let (mut learner, mut at) = (fresh(), progress());
    let ended = train(
        &mut learner,
        &mut at,
        &mut feed,
        &plan(dir.path()),
        Hooks::default(),
        &Clock::manual(0),
        &Stop::new(),
    );
    assert!(ended.is_err());
    assert_eq!(checkpoint::latest(dir.path()).unwrap(), dir.path().join("step-5"));
}

#[test]
fn time_spent_waiting_is_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Clock::manual(0);
    let (slow, busy) = (clock.clone(), clock.clone());
    let mut step = 0;
    let mut feed = Feed::Direct(Box::new(move || {
        slow.advance(Duration::from_secs(1));
        step += 1;
        Ok((step <= 3).then(|| delivery(step - 1, &recipe().model)))
    }));
    let observe = move |_: &Delivery, _: &Outcome| {
        busy.advance(Duration::from_secs(3));
        Ok(())
    };
    let hooks = Hooks { observe: Box::new(observe), ..Hooks::default() };
    let (mut learner, mut at) = (fresh(), progress());
    train(&mut learner, &mut at, &mut feed, &plan(dir.path()), hooks, &clock, &Stop::new())
        .unwrap_or_else(|failure| panic!("{failure}"));
    let line = &lines(dir.path())[0];
    assert!((line.wait - 0.25).abs() < 1e-9, "{line:?}");
    assert!((line.tokens_per_second - line.tokens as f64 / 12.0).abs() < 1e-9, "{line:?}");
}
