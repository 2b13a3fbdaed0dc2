//! Members with their embeddings: what the policies that select by embeddings have in common.
//!
//! The first usable embedding decides which embedder the buffer is of; records without an embedding of that one,
//! or with one that is not finite or zero, are never members. Vectors are used as unit vectors.

use std::collections::BTreeSet;

use perennial_schemas::id::RecordId;

use super::{Block, Candidate, Capacity, Change, Embedding, Judged, StateError};
use crate::herding::Rows;

/// A buffer of embedded records.
#[derive(Debug)]
pub(super) struct Embedded {
    capacity: Capacity,
    /// The embedder, when there is one.
    embedder: Option<String>,
    width: usize,
    /// In the order of the store.
    members: Vec<Candidate>,
    ids: BTreeSet<RecordId>,
    vectors: Vec<f32>,
    used: u128,
}

/// The usable records of a block.
#[derive(Debug, Default)]
pub(super) struct Usable {
    pub(super) candidates: Vec<Candidate>,
    pub(super) vectors: Vec<f32>,
}

impl Embedded {
    pub(super) const fn new(capacity: Capacity) -> Self {
        Self {
            capacity,
            embedder: None,
            width: 0,
            members: Vec::new(),
            ids: BTreeSet::new(),
            vectors: Vec::new(),
            used: 0,
        }
    }

    pub(super) const fn width(&self) -> usize {
        self.width
    }

    pub(super) fn members(&self) -> &[Candidate] {
        &self.members
    }

    pub(super) fn rows(&self) -> Rows<'_> {
        Rows::new(&self.vectors, self.width)
    }

    /// By how much they are above the capacity, in its unit.
    pub(super) fn excess(&self) -> u128 {
        self.used.saturating_sub(self.capacity.limit().into())
    }

    /// The size of a member, in the unit of the capacity.
    pub(super) fn size(&self, member: usize) -> u128 {
        self.members.get(member).map_or(0, |member| self.capacity.size(member).into())
    }

    /// The records of a block that can be members.
    pub(super) fn usable(&mut self, block: &Block<'_>) -> Usable {
        let mut usable = Usable::default();
        for (candidate, embedding) in block.candidates.iter().zip(block.embeddings) {
            let Some(vector) = embedding.and_then(|embedding| self.unit(&embedding)) else { continue };
            usable.candidates.push(candidate.clone());
            usable.vectors.extend(vector);
        }
        usable
    }

    /// The unit vector of an embedding that is comparable with the others.
    fn unit(&mut self, embedding: &Embedding<'_>) -> Option<Vec<f32>> {
        let norm = embedding.values.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt();
        if !norm.is_finite() || norm <= f64::from(f32::MIN_POSITIVE) {
            return None;
        }
        if self.embedder.is_none() {
            (self.embedder, self.width) = (Some(embedding.embedder.to_owned()), embedding.values.len());
        }
        let is_ours = self.embedder.as_deref() == Some(embedding.embedder);
        (is_ours && embedding.values.len() == self.width)
            .then(|| embedding.values.iter().map(|value| (f64::from(*value) / norm) as f32).collect())
    }

    /// Adds records that are not members, whatever the capacity, without those larger than the whole; the number
    /// of members before.
    pub(super) fn add(&mut self, usable: &Usable) -> usize {
        let before = self.members.len();
        let vectors = usable.vectors.chunks_exact(self.width.max(1));
        for (candidate, vector) in usable.candidates.iter().zip(vectors) {
            let size = self.capacity.size(candidate);
            if size <= self.capacity.limit() && self.ids.insert(candidate.id) {
                self.used += u128::from(size);
                self.members.push(candidate.clone());
                self.vectors.extend_from_slice(vector);
            }
        }
        before
    }

    /// Keeps the members for which `keep` is true, of which the first `before` were members before, and appends
    /// the changes.
    pub(super) fn retain(&mut self, keep: &[bool], before: usize, changes: &mut Vec<Change>) {
        let kept = |row: usize| keep.get(row).copied().unwrap_or(false);
        let judged = |candidate: &Candidate| Judged {
            candidate: candidate.clone(),
            key: 0.0,
            weight: None,
            class: None,
        };
        let all = || self.members.iter().enumerate();
        changes.extend(
            all().filter(|(row, _)| *row < before && !kept(*row)).map(|(_, one)| Change::Evict(judged(one))),
        );
        changes.extend(
            all().filter(|(row, _)| *row >= before && kept(*row)).map(|(_, one)| Change::Admit(judged(one))),
        );
        let vectors = self.vectors.chunks_exact(self.width.max(1)).enumerate();
        self.vectors =
            vectors.filter(|(row, _)| kept(*row)).flat_map(|(_, vector)| vector.iter().copied()).collect();
        let members = std::mem::take(&mut self.members).into_iter().enumerate();
        self.members = members.filter(|(row, _)| kept(*row)).map(|(_, member)| member).collect();
        self.ids = self.members.iter().map(|member| member.id).collect();
        self.used = self.members.iter().map(|member| u128::from(self.capacity.size(member))).sum();
    }

    pub(super) fn save(&self, state: &mut Writer) {
        state.text(self.embedder.as_deref().unwrap_or_default());
        state.number(self.width as u64);
        state.singles(&self.vectors);
    }

    pub(super) fn load(&mut self, state: &mut Reader<'_>, members: &[Candidate]) -> Result<(), StateError> {
        let embedder = state.text()?;
        *self = Self { embedder: Some(embedder).filter(|name| !name.is_empty()), ..Self::new(self.capacity) };
        self.width = usize::try_from(state.number()?).map_err(|error| StateError(error.to_string()))?;
        self.vectors = state.singles()?;
        if self.vectors.len() != self.width * members.len() {
            return Err(StateError(format!(
                "it is of {} numbers, not {}",
                self.vectors.len(),
                self.width * members.len()
            )));
        }
        self.members = members.to_vec();
        self.ids = members.iter().map(|member| member.id).collect();
        self.used = members.iter().map(|member| u128::from(self.capacity.size(member))).sum();
        Ok(())
    }
}

/// Writes a state: every bit of every number.
#[derive(Debug, Default)]
pub(super) struct Writer(pub(super) Vec<u8>);

impl Writer {
    pub(super) fn number(&mut self, number: u64) {
        self.0.extend(number.to_le_bytes());
    }

    pub(super) fn text(&mut self, text: &str) {
        self.number(text.len() as u64);
        self.0.extend(text.as_bytes());
    }

    pub(super) fn singles(&mut self, numbers: &[f32]) {
        self.number(numbers.len() as u64);
        self.0.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
    }

    pub(super) fn doubles(&mut self, numbers: &[f64]) {
        self.number(numbers.len() as u64);
        self.0.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
    }
}

/// Reads what a [`Writer`] wrote.
#[derive(Debug)]
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl Reader<'_> {
    fn take(&mut self, count: u64, size: usize) -> Result<&[u8], StateError> {
        let bytes = usize::try_from(count).ok().and_then(|count| count.checked_mul(size));
        let split = bytes.and_then(|bytes| self.0.split_at_checked(bytes));
        let (taken, rest) = split.ok_or_else(|| StateError("it is cut short".to_owned()))?;
        self.0 = rest;
        Ok(taken)
    }

    pub(super) fn number(&mut self) -> Result<u64, StateError> {
        let bytes = self.take(1, 8)?;
        Ok(bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)))
    }

    pub(super) fn text(&mut self) -> Result<String, StateError> {
        let length = self.number()?;
        String::from_utf8(self.take(length, 1)?.to_vec()).map_err(|error| StateError(error.to_string()))
    }

    pub(super) fn singles(&mut self) -> Result<Vec<f32>, StateError> {
        let count = self.number()?;
        Ok(self.take(count, 4)?.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect())
    }

    pub(super) fn doubles(&mut self) -> Result<Vec<f64>, StateError> {
        let count = self.number()?;
        Ok(self.take(count, 8)?.as_chunks::<8>().0.iter().map(|bytes| f64::from_le_bytes(*bytes)).collect())
    }
}
