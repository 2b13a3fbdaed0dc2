use std::cell::RefCell;
use std::path::Path;

use tch::{Device, Tensor};

use super::*;
use crate::checkpoint::{Resumed, load};
use crate::metrics::Line;
use crate::testing::{delivery, learned, position, train_config};

fn feed(from: u64, until: u64) -> Feed {
    let mut step = from;
    Box::new(move || {
        step += 1;
        Ok((step <= until).then(|| delivery(step - 1, &train_config().model)))
    })
}

fn hooks<'a>() -> Hooks<'a> {
    Hooks { evaluate: Box::new(|_, _| Ok(())) }
}

fn plan(dir: &Path) -> Plan {
    let every = vec![(3, Act::Metrics), (4, Act::Evaluate), (5, Act::Checkpoint)];
    Plan { dir: dir.to_owned(), until: None, every, keep: 10 }
}

fn run(
    learner: &mut Learner,
    position: &mut JobPosition,
    feed: &mut Feed,
    plan: &Plan,
    hooks: Hooks<'_>,
) -> Report {
    let ended = train(learner, position, feed, plan, hooks, &Clock::manual(0), &Stop::new());
    ended.unwrap_or_else(|failure| panic!("{failure}"))
}

fn lines(dir: &Path) -> Vec<Line> {
    let text = std::fs::read_to_string(dir.join("metrics.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn a_resumed_job_gives_the_bits_of_one_that_never_stopped() {
    let (straight, stopped) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (mut learner, mut at) = (learned(0), position());
    run(&mut learner, &mut at, &mut feed(0, 14), &plan(straight.path()), hooks());

    // It runs to step 8, having saved at 5; the end's own checkpoint is lost, as a kill would have it.
    run(&mut learned(0), &mut position(), &mut feed(0, 8), &plan(stopped.path()), hooks());
    std::fs::remove_dir_all(stopped.path().join("step-8")).unwrap();
    let path = checkpoint::latest(stopped.path()).unwrap();
    let Resumed { learner: mut resumed, state } = load(&path, Device::Cpu, |_| {}).unwrap();
    assert_eq!(state.step, Step(5));
    let mut back = state.position();
    run(&mut resumed, &mut back, &mut feed(5, 14), &plan(stopped.path()), hooks());

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
    let evaluate = |learner: &Learner, position: &JobPosition| {
        evaluated.borrow_mut().push((learner.at().0, position.next.row));
        Ok(())
    };
    let hooks = Hooks { evaluate: Box::new(evaluate) };
    let (mut learner, mut at) = (learned(0), position());
    let report = run(&mut learner, &mut at, &mut feed(0, 11), &plan(dir.path()), hooks);
    assert_eq!((report.end, report.steps), (End::Stream, Step(11)));
    assert_eq!(report.checkpoint, dir.path().join("step-11"));
    assert_eq!(evaluated.into_inner(), [(4, 8), (8, 16)]);
    // A checkpoint closes its interval, so that no line spans it.
    let steps: Vec<u64> = lines(dir.path()).iter().map(|line| line.step.0).collect();
    assert_eq!(steps, [3, 5, 6, 9, 10, 11]);
    let saved: Vec<u64> = checkpoint::complete(dir.path()).unwrap().iter().map(|(step, _)| step.0).collect();
    assert_eq!(saved, [5, 10, 11]);
    assert_eq!((at.next.row, &at.next), (22, &delivery(10, &train_config().model).next));
    assert_eq!(at.tokens, lines(dir.path()).last().unwrap().tokens);
}

#[test]
fn a_job_ends_at_its_step_and_when_it_is_asked_to() {
    let dir = tempfile::tempdir().unwrap();
    let plan = Plan { until: Some(Step(5)), ..plan(dir.path()) };
    let (mut learner, mut at) = (learned(0), position());
    let report = run(&mut learner, &mut at, &mut feed(0, 100), &plan, hooks());
    assert_eq!((report.end, report.steps), (End::Done, Step(5)));

    let stop = Stop::new();
    let evaluate = |learner: &Learner, _: &JobPosition| {
        if learner.at() == Step(7) {
            stop.trigger();
        }
        Ok(())
    };
    let hooks = Hooks { evaluate: Box::new(evaluate) };
    let plan = Plan { until: None, every: vec![(1, Act::Evaluate)], ..plan };
    let ended = train(&mut learner, &mut at, &mut feed(5, 100), &plan, hooks, &Clock::manual(0), &stop);
    let report = ended.unwrap_or_else(|failure| panic!("{failure}"));
    assert_eq!((report.end, report.steps), (End::Stopped, Step(7)));
    assert_eq!(report.checkpoint, dir.path().join("step-7"));
}

#[test]
fn a_stop_while_waiting_for_text_is_no_end_of_the_stream() {
    let (dir, stop) = (tempfile::tempdir().unwrap(), Stop::new());
    let (asked, mut step) = (stop.clone(), 0);
    let mut feed: Feed = Box::new(move || {
        step += 1;
        if step > 3 {
            asked.trigger();
            return Ok(None);
        }
        Ok(Some(delivery(step - 1, &train_config().model)))
    });
    let (mut learner, mut at) = (learned(0), position());
    let plan = plan(dir.path());
    let ended = train(&mut learner, &mut at, &mut feed, &plan, hooks(), &Clock::manual(0), &stop);
    let report = ended.unwrap_or_else(|failure| panic!("{failure}"));
    assert_eq!((report.end, report.steps), (End::Stopped, Step(3)));
    assert_eq!(report.checkpoint, dir.path().join("step-3"));
}

#[test]
fn a_failed_step_leaves_the_checkpoint_before_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut step = 0;
    let mut feed: Feed = Box::new(move || {
        step += 1;
        let mut made = delivery(step - 1, &train_config().model);
        if step == 7 {
            made.ticket.step = Step(99);
        }
        Ok(Some(made))
    });
    let (mut learner, mut at) = (learned(0), position());
    let ended =
        train(&mut learner, &mut at, &mut feed, &plan(dir.path()), hooks(), &Clock::manual(0), &Stop::new());
    assert!(ended.is_err());
    assert_eq!(checkpoint::latest(dir.path()).unwrap(), dir.path().join("step-5"));
}

#[test]
fn time_spent_waiting_is_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Clock::manual(0);
    let (slow, busy) = (clock.clone(), clock.clone());
    let mut step = 0;
    let mut feed: Feed = Box::new(move || {
        slow.advance(Duration::from_secs(1));
        step += 1;
        Ok((step <= 3).then(|| delivery(step - 1, &train_config().model)))
    });
    let evaluate = move |_: &Learner, _: &JobPosition| {
        busy.advance(Duration::from_secs(3));
        Ok(())
    };
    let hooks = Hooks { evaluate: Box::new(evaluate) };
    let plan = Plan { every: vec![(1, Act::Evaluate), (3, Act::Metrics)], ..plan(dir.path()) };
    let (mut learner, mut at) = (learned(0), position());
    train(&mut learner, &mut at, &mut feed, &plan, hooks, &clock, &Stop::new())
        .unwrap_or_else(|failure| panic!("{failure}"));
    let line = &lines(dir.path())[0];
    assert!((line.wait - 0.25).abs() < 1e-9, "{line:?}");
    assert!((line.tokens_per_second - line.tokens as f64 / 12.0).abs() < 1e-9, "{line:?}");
}
