//! Greedy selection of representative rows of a matrix of embeddings: herding and k-center.
//!
//! ```text
//! global      the next row brings the mean of the selected rows nearest to the mean of all      (exact)
//! stratified  the same, cluster by cluster, each with a quota by its mass                       (1/k of the work)
//! k_center    the next row is the farthest from all selected ones                               (exact)
//! ```
//!
//! Herding (Welling 2009; Chen, Welling, Smola 2010): w_0 = mu; x_{t+1} = argmax <w_t, x>;
//! w_{t+1} = w_t + mu - x_{t+1}. Then the mean of the first m rows is off mu by norm(w_m - w_0)/m. With unit rows it
//! is the greedy choice of iCaRL (Rebuffi et al. 2017, Algorithm 4).
//!
//! Every selection is a function of its input alone: scores are sums of a fixed order in f64 ([`dot`]), of equal
//! scores the lowest row wins, and what is pruned is pruned by bounds that hold. So all processors select the
//! same rows.

pub mod clusters;
pub mod global;
pub mod k_center;
mod scan;
pub mod stratified;

/// Rows of equal length, one after the other.
#[derive(Debug, Clone, Copy)]
pub struct Rows<'a> {
    values: &'a [f32],
    width: usize,
}

impl<'a> Rows<'a> {
    /// Rows of `width` numbers; a remainder is left out.
    #[must_use]
    pub const fn new(values: &'a [f32], width: usize) -> Self {
        Self { values, width }
    }

    /// Number of rows.
    #[must_use]
    pub fn len(&self) -> usize {
        self.values.len().checked_div(self.width).unwrap_or(0)
    }

    /// Whether it is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All numbers.
    #[must_use]
    pub const fn values(&self) -> &'a [f32] {
        self.values
    }

    /// Numbers of a row.
    #[must_use]
    pub const fn width(&self) -> usize {
        self.width
    }

    /// A row; empty beyond the last one.
    #[must_use]
    pub fn get(&self, row: usize) -> &'a [f32] {
        self.values.get(row * self.width..(row + 1) * self.width).unwrap_or(&[])
    }

    /// All rows in order.
    pub fn iter(self) -> impl Iterator<Item = &'a [f32]> {
        (0..self.len()).map(move |row| self.get(row))
    }

    /// Their mean; zeros without a row.
    #[must_use]
    pub fn mean(&self) -> Vec<f64> {
        let mut sum = vec![0.0; self.width];
        self.iter().for_each(|row| add(&mut sum, row, 1.0));
        let count = self.len().max(1) as f64;
        sum.iter_mut().for_each(|value| *value /= count);
        sum
    }
}

/// Lanes of [`dot`].
const LANES: usize = 8;

/// The inner product in f64: products are exact, and the order of the sums is fixed, so that every processor
/// gets the same bits.
#[must_use]
pub fn dot(one: &[f32], two: &[f32]) -> f64 {
    let mut lanes = [0.0_f64; LANES];
    let (ones, twos) = (one.as_chunks::<LANES>(), two.as_chunks::<LANES>());
    for (one, two) in ones.0.iter().zip(twos.0) {
        for lane in 0..LANES {
            lanes[lane] += f64::from(one[lane]) * f64::from(two[lane]);
        }
    }
    for (lane, (one, two)) in ones.1.iter().zip(twos.1).enumerate() {
        lanes[lane] += f64::from(*one) * f64::from(*two);
    }
    let [a, b, c, d, e, f, g, h] = lanes;
    ((a + e) + (b + f)) + ((c + g) + (d + h))
}

/// Adds a multiple of a row.
fn add(sum: &mut [f64], row: &[f32], times: f64) {
    for (sum, value) in sum.iter_mut().zip(row) {
        *sum += times * f64::from(*value);
    }
}

/// Rounded to f32, which scores are computed with.
fn rounded(values: &[f64], into: &mut Vec<f32>) {
    into.clear();
    into.extend(values.iter().map(|value| *value as f32));
}

/// A row and its score.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Scored {
    score: f64,
    row: usize,
}

impl Scored {
    /// Whether it comes before another one: by a larger score, else by a lower row. A NaN comes last.
    fn beats(self, other: Self) -> bool {
        let rank = |score: f64| if score.is_nan() { f64::NEG_INFINITY } else { score };
        match rank(self.score).total_cmp(&rank(other.score)) {
            std::cmp::Ordering::Greater => true,
            std::cmp::Ordering::Equal => self.row < other.row,
            std::cmp::Ordering::Less => false,
        }
    }
}

#[cfg(test)]
mod tests;
