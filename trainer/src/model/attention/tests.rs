use tch::{Kind, Tensor};

use super::*;
use crate::testing::{distance, numbers};

/// Attention by its definition: one softmax over a dense mask that is causal and block-diagonal.
fn dense(q: &Tensor, k: &Tensor, v: &Tensor, lengths: &[i64]) -> Tensor {
    let (tokens, heads, size) = q.size3().unwrap();
    let share = heads / k.size()[1];
    let document: Vec<usize> =
        lengths.iter().enumerate().flat_map(|(index, n)| (0..*n).map(move |_| index)).collect();
    let seen = |i: usize, j: usize| document[i] == document[j] && j <= i;
    let bias: Vec<f32> = (0..document.len())
        .flat_map(|i| (0..document.len()).map(move |j| (i, j)))
        .map(|(i, j)| if seen(i, j) { 0.0 } else { f32::NEG_INFINITY })
        .collect();
    let bias = Tensor::from_slice(&bias).view([tokens, tokens]);
    let mixed: Vec<Tensor> = (0..heads)
        .map(|head| {
            let [q, k, v] =
                [(q, head), (k, head / share), (v, head / share)].map(|(x, head)| x.select(1, head));
            let scores = q.matmul(&k.tr()) / (size as f64).sqrt() + &bias;
            scores.softmax(-1, Kind::Float).matmul(&v)
        })
        .collect();
    Tensor::cat(&mixed, 1)
}

/// Output and gradients of q, k, v under a fixed gradient of the output.
fn with_gradients(attend: impl Fn(&[Tensor; 3]) -> Tensor, kv_heads: i64, lengths: &[i64]) -> Vec<Tensor> {
    let tokens = lengths.iter().sum();
    let qkv = [(1, 4), (2, kv_heads), (3, kv_heads)]
        .map(|(seed, heads)| numbers(seed, &[tokens, heads, 8]).set_requires_grad(true));
    let out = attend(&qkv);
    (&out * numbers(4, &[tokens, 32])).sum(Kind::Float).backward();
    let mut all = vec![out.detach()];
    all.extend(qkv.iter().map(Tensor::grad));
    all
}

#[test]
fn attention_by_documents_equals_a_dense_block_diagonal_mask_forward_and_backward() {
    for lengths in [vec![12], vec![5, 5, 5], vec![1, 1, 3, 3, 7, 20], vec![9, 2, 9], vec![1]] {
        for kv_heads in [4, 2, 1] {
            let documents = Documents::of_lengths(lengths.iter().copied());
            let ours = with_gradients(|[q, k, v]| attend(q, k, v, &documents), kv_heads, &lengths);
            let twin = with_gradients(|[q, k, v]| dense(q, k, v, &lengths), kv_heads, &lengths);
            for (part, (ours, twin)) in ours.iter().zip(&twin).enumerate() {
                let distance = distance(ours, twin);
                assert!(distance < 1e-5, "part {part} of {lengths:?}, {kv_heads} key heads: {distance}");
            }
        }
    }
}

#[test]
fn attention_by_documents_in_bf16_is_that_of_a_dense_mask_over_the_rounded_inputs() {
    let rounded = |x: &Tensor| x.to_kind(Kind::BFloat16);
    for lengths in [vec![12], vec![1, 1, 3, 3, 7, 20]] {
        let documents = Documents::of_lengths(lengths.iter().copied());
        let narrow = |[q, k, v]: &[Tensor; 3]| {
            attend(&rounded(q), &rounded(k), &rounded(v), &documents).to_kind(Kind::Float)
        };
        let wide = |qkv: &[Tensor; 3]| {
            let [q, k, v] = [0, 1, 2].map(|part: usize| rounded(&qkv[part]).to_kind(Kind::Float));
            dense(&q, &k, &v, &lengths)
        };
        let ours = with_gradients(narrow, 2, &lengths);
        let twin = with_gradients(wide, 2, &lengths);
        for (part, (ours, twin)) in ours.iter().zip(&twin).enumerate() {
            let distance = distance(ours, twin);
            assert!(distance < 0.03, "part {part} of {lengths:?}: {distance}");
        }
    }
}

#[test]
fn rotation_of_bf16_is_that_of_f32_rounded_once() {
    let rotary = Rotary::new(1_000, 8, 10_000.0, Device::Cpu);
    let x = numbers(7, &[3, 2, 8]).to_kind(Kind::BFloat16);
    let angles = rotary.at(&Tensor::from_slice(&[1_i64, 500, 999]));
    let wanted = angles.rotate(&x.to_kind(Kind::Float)).to_kind(Kind::BFloat16);
    assert!(angles.rotate(&x).equal(&wanted));
}

#[test]
fn equal_neighbours_become_one_group_and_positions_restart() {
    let documents = Documents::of_lengths([1, 2, 2, 3]);
    let groups: Vec<(i64, i64)> = documents.groups.iter().map(|group| (group.count, group.length)).collect();
    assert_eq!(groups, [(1, 1), (2, 2), (1, 3)]);
    assert_eq!(documents.positions(), [0, 0, 1, 0, 1, 0, 1, 2]);
    assert_eq!(documents.tokens(), 8);
}

#[test]
fn rotation_turns_each_pair_by_its_position_and_frequency() {
    let (size, theta) = (6_usize, 100.0_f64);
    let rotary = Rotary::new(16, size as u32, theta, Device::Cpu);
    let positions = [0_i64, 3, 15, 1];
    let x = numbers(7, &[4, 2, size as i64]);
    let found = rotary.at(&Tensor::from_slice(&positions)).rotate(&x);
    for (token, position) in positions.iter().enumerate() {
        for head in 0..2 {
            for k in 0..size / 2 {
                let angle = *position as f64 / theta.powf(2.0 * k as f64 / size as f64);
                let at = |x: &Tensor, k: usize| x.double_value(&[token as i64, head, k as i64]);
                let (a, b) = (at(&x, k), at(&x, k + size / 2));
                assert!((at(&found, k) - (a * angle.cos() - b * angle.sin())).abs() < 1e-6);
                assert!((at(&found, k + size / 2) - (b * angle.cos() + a * angle.sin())).abs() < 1e-6);
            }
        }
    }
}

#[test]
fn scores_of_rotated_heads_depend_on_the_distance_alone() {
    let rotary = Rotary::new(64, 8, 10_000.0, Device::Cpu);
    let (q, k) = (numbers(1, &[1, 1, 8]), numbers(2, &[1, 1, 8]));
    let score = |i: i64, j: i64| {
        let turn = |x: &Tensor, at: i64| rotary.at(&Tensor::from_slice(&[at])).rotate(x);
        (turn(&q, i) * turn(&k, j)).sum(Kind::Double).double_value(&[])
    };
    assert!((score(5, 2) - score(60, 57)).abs() < 1e-5);
    assert!((score(5, 2) - score(5, 4)).abs() > 1e-4);
}

#[test]
fn rms_norm_divides_by_the_root_of_the_mean_square() {
    let (x, weight) = (numbers(1, &[5, 12]), numbers(2, &[12]));
    let found = rms_norm(&x, &weight, 1e-5);
    for row in 0..5 {
        let at = |k: i64| x.double_value(&[row, k]);
        let root = ((0..12).map(|k| at(k) * at(k)).sum::<f64>() / 12.0 + 1e-5).sqrt();
        for k in 0..12 {
            let wanted = at(k) / root * weight.double_value(&[k]);
            assert!((found.double_value(&[row, k]) - wanted).abs() < 1e-6);
        }
    }
    let half = rms_norm(&x.to_kind(Kind::BFloat16), &weight.to_kind(Kind::BFloat16), 1e-5);
    assert_eq!(half.kind(), Kind::BFloat16);
    assert!(distance(&half.to_kind(Kind::Float), &found) < 0.03);
}
