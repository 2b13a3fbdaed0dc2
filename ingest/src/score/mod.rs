//! Scores of a kept record, by which replay chooses: never a reason to drop one.
//!
//! A score is made *before* the record itself is learnt, so that it says what the record was to the
//! stream at that moment. What the scores remember is bounded, and a function of the kept rows in order.

pub mod novelty;
pub mod percentile;
