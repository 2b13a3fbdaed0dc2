//! Prototypes of a stream of unit vectors: online spherical k-means.
//!
//! - **Nearest.** The prototype c of the largest cosine; the distance is 1 - cosine.
//! - **Learning.** The nearest prototype becomes the unit vector of c + (x - c) / n, x its n-th vector: the
//!   running mean on the sphere (MacQueen 1967; Zhong 2005, spherical and online).
//! - **Opening.** With probability min(1, k d / D), d the vector's distance and D the sum of all distances so
//!   far, this one included, the vector itself becomes a new prototype: the seeding of k-means++ (Arthur,
//!   Vassilvitskii 2007) as a stream can do it (Liberty, Sriharsha, Sviridenko 2016). The random number is a
//!   hash of the seed and the vector's number.
//! - **Merging.** Above k prototypes the two of the least cost n m / (n + m) (1 - cosine) (Ward 1963) become
//!   their weighted mean. So a burst of equal texts holds one prototype, not many.

use perennial_schemas::seed::{Seed, unit};

use crate::score::embed::hashed::{DIMENSIONS, Vector, dot};

/// At most k prototypes of the vectors that it has learnt.
#[derive(Debug, Clone)]
pub struct Prototypes {
    most: usize,
    seed: Seed,
    centres: Vec<Vector>,
    /// How many vectors each stands for.
    counts: Vec<f32>,
    /// The sum of the distances of all vectors.
    distances: f64,
}

/// The prototype nearest to a vector.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Nearest {
    index: usize,
    /// 1 - cosine, 0 to 2.
    pub distance: f32,
}

impl Prototypes {
    /// None yet, and `most`, at least one, later.
    #[must_use]
    pub fn new(most: usize, seed: Seed) -> Self {
        Self { most: most.max(1), seed, centres: Vec::new(), counts: Vec::new(), distances: 0.0 }
    }

    /// The prototype nearest to `vector`, of equals the oldest; `None` before the first.
    #[must_use]
    pub fn nearest(&self, vector: &Vector) -> Option<Nearest> {
        let mut best = None;
        for (index, centre) in self.centres.iter().enumerate() {
            let cosine = dot(centre, vector);
            if best.is_none_or(|(_, highest)| cosine > highest) {
                best = Some((index, cosine));
            }
        }
        best.map(|(index, cosine)| Nearest { index, distance: (1.0 - cosine).clamp(0.0, 2.0) })
    }

    /// Learns the vector with this number, whose nearest prototype is `nearest`.
    pub fn learn(&mut self, number: u64, vector: &Vector, nearest: Option<Nearest>) {
        let Some(nearest) = nearest else {
            self.open(vector);
            return;
        };
        let distance = f64::from(nearest.distance);
        self.distances += distance;
        let chance = unit(self.seed.at(&[number]));
        if distance > 0.0 && chance * self.distances < self.most as f64 * distance {
            self.open(vector);
        } else if let (Some(centre), Some(count)) =
            (self.centres.get_mut(nearest.index), self.counts.get_mut(nearest.index))
        {
            *count += 1.0;
            let step = 1.0 / *count;
            centre.iter_mut().zip(vector).for_each(|(centre, value)| *centre += (value - *centre) * step);
            normalise(centre);
        }
    }

    fn open(&mut self, vector: &Vector) {
        self.centres.push(*vector);
        self.counts.push(1.0);
        if self.centres.len() > self.most {
            self.merge();
        }
    }

    fn merge(&mut self) {
        let mut best: Option<(f32, usize, usize)> = None;
        for (j, (second, m)) in self.centres.iter().zip(&self.counts).enumerate() {
            for (i, (first, n)) in self.centres.iter().zip(&self.counts).enumerate().take(j) {
                let cost = n * m / (n + m) * (1.0 - dot(first, second));
                if best.is_none_or(|(least, ..)| cost < least) {
                    best = Some((cost, i, j));
                }
            }
        }
        let Some((_, i, j)) = best else { return };
        let (other, m) = (self.centres.remove(j), self.counts.remove(j));
        if let (Some(centre), Some(n)) = (self.centres.get_mut(i), self.counts.get_mut(i)) {
            let share = m / (*n + m);
            centre.iter_mut().zip(other).for_each(|(centre, value)| *centre += (value - *centre) * share);
            *n += m;
            normalise(centre);
        }
    }
}

/// Brings a vector to length 1; one of opposite halves, which has none, becomes the first axis.
fn normalise(vector: &mut Vector) {
    let length = dot(vector, vector).sqrt();
    if length > 1e-6 {
        vector.iter_mut().for_each(|value| *value /= length);
    } else {
        *vector = [0.0; DIMENSIONS];
        vector.iter_mut().take(1).for_each(|value| *value = 1.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use perennial_schemas::seed::below;
    use proptest::prelude::*;

    /// A random direction near one of a few others.
    fn vector(number: u64, groups: u64, spread: f32) -> Vector {
        let seed = Seed::new(9);
        let noise = |place: &[u64]| unit(seed.at(place)) as f32 - 0.5;
        let group = below(seed.at(&[number]), groups);
        let mut vector = [0.0; DIMENSIONS];
        for (axis, value) in (0..).zip(&mut vector) {
            *value = noise(&[group, axis, 1]) + spread * noise(&[number, axis]);
        }
        normalise(&mut vector);
        vector
    }

    fn learnt(vectors: &[Vector], most: usize) -> Prototypes {
        let mut prototypes = Prototypes::new(most, Seed::new(1));
        for (number, vector) in (0..).zip(vectors) {
            prototypes.learn(number, vector, prototypes.nearest(vector));
        }
        prototypes
    }

    #[test]
    fn each_group_gets_a_prototype_however_large_the_others_are() {
        // Most vectors are of the first group, and come first.
        let burst = (0..900).map(|number| vector(number, 1, 0.5));
        let rest = (1_000..1_400).map(|number| vector(number, 8, 0.5));
        let vectors: Vec<Vector> = burst.chain(rest).collect();
        let prototypes = learnt(&vectors, 16);
        assert!(prototypes.centres.len() <= 16);
        for number in 2_000..2_100 {
            let near = prototypes.nearest(&vector(number, 8, 0.5)).unwrap().distance;
            assert!(near < 0.45, "{near}");
        }
        let far = prototypes.nearest(&vector(77, 1 << 40, 0.5)).unwrap().distance;
        assert!(far > 0.6, "{far}");
    }

    #[test]
    fn opposite_vectors_merge_into_a_unit_vector() {
        let mut one = [0.0; DIMENSIONS];
        one[5] = 1.0;
        let other = one.map(|value| -value);
        let prototypes = learnt(&[one, other, one, other], 1);
        let centre = prototypes.centres[0];
        assert!((dot(&centre, &centre) - 1.0).abs() < 1e-5);
    }

    proptest! {
        #[test]
        fn nearest_is_that_of_comparing_all_in_double_precision(
            count in 0..80_u64, groups in 1..20_u64, most in 1..20_usize, probe in any::<u32>(),
        ) {
            let vectors: Vec<Vector> = (0..count).map(|number| vector(number, groups, 0.8)).collect();
            let prototypes = learnt(&vectors, most);
            let probe = vector(u64::from(probe), 40, 0.8);
            let exact = |centre: &Vector| {
                1.0 - centre.iter().zip(&probe).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>()
            };
            let least = prototypes.centres.iter().map(exact).min_by(f64::total_cmp);
            let found = prototypes.nearest(&probe);
            prop_assert_eq!(found.is_some(), least.is_some());
            if let (Some(found), Some(least)) = (found, least) {
                prop_assert!((f64::from(found.distance) - least.max(0.0)).abs() < 1e-5);
            }
            prop_assert!(prototypes.centres.len() <= most);
            let total: f32 = prototypes.counts.iter().sum();
            prop_assert_eq!(total as u64, count, "every vector stands for one");
            for centre in &prototypes.centres {
                prop_assert!((dot(centre, centre) - 1.0).abs() < 1e-5);
            }
        }
    }
}
