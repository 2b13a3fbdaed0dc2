//! Causal attention inside documents, never across them.
//!
//! Tokens are ordered document by document, and documents of equal length follow each other, so that each
//! group is one dense call without a mask. The result equals that of a block-diagonal causal mask over the
//! rows, at the cost of the documents' own lengths.

use tch::{Device, Kind, Tensor};

/// `count` documents of `length` tokens each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Group {
    /// At least 1.
    count: i64,
    /// At least 1.
    length: i64,
}

/// How the tokens of a batch divide into documents: consecutive groups.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Documents {
    groups: Vec<Group>,
}

impl Documents {
    /// Documents of these lengths, in this order; neighbours of equal length become one group.
    #[must_use]
    pub fn of_lengths(lengths: impl IntoIterator<Item = i64>) -> Self {
        let mut groups: Vec<Group> = Vec::new();
        for length in lengths {
            match groups.last_mut() {
                Some(last) if last.length == length => last.count += 1,
                _ => groups.push(Group { count: 1, length }),
            }
        }
        Self { groups }
    }

    /// Number of tokens.
    #[must_use]
    pub fn tokens(&self) -> i64 {
        self.groups.iter().map(|group| group.count * group.length).sum()
    }

    /// Each token's position in its document, in the order of the tokens.
    #[must_use]
    pub fn positions(&self) -> Vec<i64> {
        self.groups.iter().flat_map(|group| (0..group.count).flat_map(|_| 0..group.length)).collect()
    }
}

/// Softmax attention of `q` `[tokens, heads, size]` over `k` and `v` `[tokens, kv_heads, size]`, causal
/// inside each document; returns `[tokens, heads * size]`. Query head `h` reads key head
/// `h / (heads / kv_heads)` (Ainslie et al. 2023). Panics as `tch` does if shapes do not match.
pub fn attend(q: &Tensor, k: &Tensor, v: &Tensor, documents: &Documents) -> Tensor {
    let grouped = q.size().get(1) != k.size().get(1);
    // The backward pass of a split is one concatenation; that of a narrow fills a whole gradient per group.
    let sizes: Vec<i64> = documents.groups.iter().map(|group| group.count * group.length).collect();
    let [q, k, v] = [q, k, v].map(|all| all.split_with_sizes(&sizes, 0));
    let parts = documents.groups.iter().zip(q.iter().zip(k.iter().zip(&v)));
    let parts: Vec<Tensor> =
        parts.map(|(group, (q, (k, v)))| attend_group(*group, [q, k, v], grouped)).collect();
    match parts.as_slice() {
        [only] => only.shallow_clone(),
        _ => Tensor::cat(&parts, 0),
    }
}

fn attend_group(group: Group, qkv: [&Tensor; 3], grouped: bool) -> Tensor {
    let [q, k, v] = qkv.map(|part| part.unflatten(0, [group.count, group.length]).transpose(1, 2));
    let mixed = Tensor::scaled_dot_product_attention::<&Tensor>(&q, &k, &v, None, 0.0, true, None, grouped);
    mixed.transpose(1, 2).flatten(2, 3).flatten(0, 1)
}

/// Rotary position embedding (Su et al. 2021) over the two halves of a head, as in Hugging Face's Llama.
#[derive(Debug)]
pub struct Rotary {
    cos: Tensor,
    sin: Tensor,
}

/// Cosines and sines of a batch's positions, f32 `[tokens, 1, size / 2]` each.
#[derive(Debug)]
pub struct Angles {
    cos: Tensor,
    sin: Tensor,
}

impl Rotary {
    /// Tables for `context` positions and heads of `size` (even). Angles are computed in f64, so they are
    /// exact to the last bit of f32 at every position.
    #[must_use]
    pub fn new(context: u32, size: u32, theta: f64, device: Device) -> Self {
        let half = size / 2;
        let angle = |at: u32| {
            (0..half).map(move |k| f64::from(at) * theta.powf(-2.0 * f64::from(k) / f64::from(size)))
        };
        let table = |function: fn(f64) -> f64| {
            let values: Vec<f32> = (0..context).flat_map(angle).map(|angle| function(angle) as f32).collect();
            Tensor::from_slice(&values).view([i64::from(context), 1, i64::from(half)]).to_device(device)
        };
        Self { cos: table(f64::cos), sin: table(f64::sin) }
    }

    /// The angles at these positions, i64 `[tokens]`.
    #[must_use]
    pub fn at(&self, positions: &Tensor) -> Angles {
        Angles { cos: self.cos.index_select(0, positions), sin: self.sin.index_select(0, positions) }
    }
}

impl Angles {
    /// Rotates `x`, `[tokens, heads, size]`: (a, b) becomes (a cos - b sin, b cos + a sin), computed in
    /// f32 and rounded to the dtype of `x`, as in Llama; the angles are never rounded.
    pub fn rotate(&self, x: &Tensor) -> Tensor {
        let halves = x.chunk(2, -1);
        let [a, b] = halves.as_slice() else { return x.shallow_clone() };
        Tensor::cat(&[a * &self.cos - b * &self.sin, b * &self.cos + a * &self.sin], -1).to_kind(x.kind())
    }
}

/// RMSNorm (Zhang and Sennrich 2019) over the last dimension: normalised in f32, cast to the input's dtype,
/// then multiplied by `weight`, in that order, as in Llama.
pub fn rms_norm(x: &Tensor, weight: &Tensor, epsilon: f64) -> Tensor {
    if x.kind() == Kind::Float {
        return x.rms_norm(weight.size(), Some(weight), epsilon);
    }
    let wide = x.to_kind(Kind::Float);
    let scale = (wide.square().mean_dim(-1, true, Kind::Float) + epsilon).rsqrt();
    (wide * scale).to_kind(x.kind()) * weight
}

#[cfg(test)]
mod tests;
