use super::*;
use crate::testing::{delivery, recipe, ticket};

fn learner() -> Learner {
    Learner::fresh(&recipe(), Seed::new(11), Device::Cpu).unwrap()
}

fn losses(learner: &mut Learner, steps: std::ops::Range<u64>) -> Vec<f64> {
    let step = |step| {
        let delivery = delivery(step, &recipe().model);
        learner.step(&delivery.ticket, &delivery.sheet).unwrap().loss.unwrap()
    };
    steps.map(step).collect()
}

/// Losses of 20 steps, seed 11: a change that moves them changes every model trained from here on.
const GOLDEN: [f64; 20] = [
    5.5803089, 5.5080605, 5.3450031, 5.1595726, 4.9932880, 4.8527341, 4.6555519, 4.6262031, 4.4436808,
    4.3294349, 4.0749097, 3.9990580, 4.0090919, 3.8470345, 3.7144375, 3.6559672, 3.5099366, 3.4629431,
    3.1817100, 2.9923637,
];

#[test]
fn losses_of_twenty_steps_are_as_they_always_were() {
    let found = losses(&mut learner(), 0..20);
    for (step, (found_one, golden)) in found.iter().zip(GOLDEN).enumerate() {
        assert!(
            (found_one / golden - 1.0).abs() < 1e-5,
            "step {step}: {found_one} is not {golden}; all: {found:?}"
        );
    }
}

#[test]
fn same_tickets_give_the_same_bits() {
    let (mut a, mut b) = (learner(), learner());
    assert_eq!(losses(&mut a, 0..5), losses(&mut b, 0..5));
    for (a, b) in a.model().tensors().zip(b.model().tensors()) {
        assert!(a.equal(b));
    }
}

#[test]
fn a_step_reports_rate_norm_and_losses_before_the_update() {
    let mut learner = learner();
    let delivery = delivery(0, &recipe().model);
    let outcome = learner.step(&delivery.ticket, &delivery.sheet).unwrap();
    assert_eq!(outcome.step, Step(0));
    assert!((outcome.rate - 3e-3 / 4.0).abs() < 1e-12);
    assert!(outcome.norm > 0.0);
    // Equal weights: the objective is the mean of the tally, and a fresh model knows nothing.
    let mean = outcome.tally.all().mean().unwrap();
    assert!((outcome.loss.unwrap() - mean).abs() < 1e-5);
    assert!((mean - 258_f64.ln()).abs() < 0.1, "{mean}");
    assert_eq!(outcome.tally.spans.len(), 5);
    assert_eq!(learner.at(), Step(1));
    assert_eq!(learner.averages().updates(), 1);
}

#[test]
fn a_ticket_of_another_step_is_refused() {
    let mut learner = learner();
    let delivery = delivery(3, &recipe().model);
    let error = learner.step(&delivery.ticket, &delivery.sheet).unwrap_err();
    assert!(matches!(error, StepError::Order { found: Step(3), wanted: Step(0) }), "{error}");
}

#[test]
fn a_batch_without_text_makes_a_step_and_changes_nothing() {
    let mut learner = learner();
    let before: Vec<Tensor> = learner.model().tensors().map(|tensor| tensor.detach().copy()).collect();
    let outcome = learner.step(&ticket(0), &Sheet::default()).unwrap();
    assert_eq!((outcome.loss, outcome.tally.spans.len()), (None, 0));
    assert_eq!(learner.at(), Step(1));
    assert!(learner.model().tensors().zip(&before).all(|(after, before)| after.equal(before)));
}

#[test]
fn a_gradient_that_is_not_finite_stops_the_job_and_leaves_the_weights() {
    let mut learner = learner();
    losses(&mut learner, 0..1);
    let broken = learner.model().parameters()[2].tensor.shallow_clone();
    let _ = tch::no_grad(|| broken.shallow_clone().get(0).fill_(f64::INFINITY));
    let before: Vec<Tensor> = learner.model().tensors().map(|tensor| tensor.detach().copy()).collect();
    let delivery = delivery(1, &recipe().model);
    let error = learner.step(&delivery.ticket, &delivery.sheet).unwrap_err();
    assert!(matches!(error, StepError::NotFinite { step: Step(1), .. }), "{error}");
    assert!(error.to_string().contains(&delivery.ticket.to_json()));
    assert!(learner.model().tensors().zip(&before).all(|(after, before)| after.equal(before)));
}

#[test]
fn what_libtorch_refuses_carries_the_ticket() {
    crate::torch::quiet_panics();
    let mut learner = learner();
    let mut delivery = delivery(0, &recipe().model);
    delivery.sheet.targets.pop();
    let error = learner.step(&delivery.ticket, &delivery.sheet).unwrap_err();
    assert!(error.to_string().contains(&delivery.ticket.to_json()), "{error}");
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert!(source.starts_with("libtorch refused: ") && !source.contains('\n'), "{source}");
}

#[test]
fn recipes_that_no_learner_can_follow_are_refused() {
    let refused = |change: fn(&mut Recipe)| {
        let mut recipe = recipe();
        change(&mut recipe);
        let error = Learner::fresh(&recipe, Seed::new(0), Device::Cpu).unwrap_err();
        assert_eq!(error.kind(), Kind::Config);
        error
    };
    assert!(matches!(refused(|recipe| recipe.model.heads = 5), RecipeError::Model(_)));
    assert!(matches!(refused(|recipe| recipe.optim.beta1 = 2.0), RecipeError::Optim(_)));
    assert!(matches!(refused(|recipe| recipe.average.horizons = vec![0]), RecipeError::Average(_)));
    assert!(matches!(refused(|recipe| recipe.schedule.rate = -1.0), RecipeError::Rate(_)));
}
