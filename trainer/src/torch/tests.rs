use tch::{Device, Kind as Dtype, Tensor};

use super::*;

fn leaf(values: &[f32]) -> Tensor {
    Tensor::from_slice(values).set_requires_grad(true)
}

fn floats(tensor: &Tensor) -> Vec<f32> {
    Vec::<f32>::try_from(tensor.detach().contiguous().view([-1])).unwrap()
}

/// Gives `parameter` the gradient `values`.
fn with_gradient(parameter: &Tensor, values: &[f32]) {
    (parameter * Tensor::from_slice(values)).sum(Dtype::Float).backward();
}

fn no() -> Tensor {
    Tensor::from(0.0_f32)
}

fn moments(parameters: Vec<Tensor>) -> Moments {
    let zeros = || parameters.iter().map(|parameter| parameter.detach().zeros_like()).collect();
    let (first, second) = (zeros(), zeros());
    let steps = parameters.iter().map(|_| no()).collect();
    Moments { parameters, first, second, steps }
}

#[test]
fn fused_adamw_follows_its_definition_over_many_steps() {
    let with = AdamW { learning_rate: 0.01, beta1: 0.9, beta2: 0.95, decay: 0.1, epsilon: 1e-8 };
    let start = [0.5_f32, -1.0, 2.0, 0.0];
    let mut fused = moments(vec![leaf(&start[..1]), leaf(&start[1..])]);
    let (mut theta, mut m, mut v) = (start.map(f64::from), [0.0_f64; 4], [0.0_f64; 4]);
    for t in 1..=25 {
        let gradient: Vec<f32> = (0..4).map(|k| ((t * 7 + k * 3) % 11) as f32 / 5.0 - 1.0).collect();
        with_gradient(&fused.parameters[0], &gradient[..1]);
        with_gradient(&fused.parameters[1], &gradient[1..]);
        adamw(&mut fused, &no(), with).unwrap();
        drop_gradients(&fused.parameters).unwrap();
        for k in 0..4 {
            let g = f64::from(gradient[k]);
            theta[k] -= with.learning_rate * with.decay * theta[k];
            m[k] = with.beta1 * m[k] + (1.0 - with.beta1) * g;
            v[k] = with.beta2 * v[k] + (1.0 - with.beta2) * g * g;
            let (mhat, vhat) = (m[k] / (1.0 - with.beta1.powi(t)), v[k] / (1.0 - with.beta2.powi(t)));
            theta[k] -= with.learning_rate * mhat / (vhat.sqrt() + with.epsilon);
        }
    }
    let found: Vec<f32> = fused.parameters.iter().flat_map(floats).collect();
    for (found, wanted) in found.iter().zip(theta) {
        assert!((f64::from(*found) - wanted).abs() < 1e-6, "{found} is not {wanted}");
    }
    assert_eq!(floats(&fused.steps[1]), [25.0]);
}

#[test]
fn adamw_changes_nothing_where_it_is_told_to_skip() {
    let mut state = moments(vec![leaf(&[1.0, 2.0])]);
    with_gradient(&state.parameters[0], &[f32::NAN, 1.0]);
    let with = AdamW { learning_rate: 0.1, beta1: 0.9, beta2: 0.95, decay: 0.1, epsilon: 1e-8 };
    let clipped = clip(&state.parameters, 1.0).unwrap();
    assert_eq!(floats(&clipped.skip), [1.0]);
    adamw(&mut state, &clipped.skip, with).unwrap();
    assert_eq!(floats(&state.parameters[0]), [1.0, 2.0]);
    assert_eq!(floats(&state.first[0]), [0.0, 0.0]);
    assert_eq!(floats(&state.second[0]), [0.0, 0.0]);
    assert_eq!(floats(&state.steps[0]), [0.0]);
}

#[test]
fn adamw_refuses_a_parameter_without_a_gradient_in_one_line() {
    let mut state = moments(vec![leaf(&[1.0])]);
    let with = AdamW { learning_rate: 0.1, beta1: 0.9, beta2: 0.95, decay: 0.1, epsilon: 1e-8 };
    let error = adamw(&mut state, &no(), with).unwrap_err();
    assert_eq!(error.to_string(), "libtorch failed: parameter 0 has no gradient");
}

#[test]
fn clip_measures_the_joint_norm_and_scales_to_the_limit() {
    let parameters = [leaf(&[0.0, 0.0]), leaf(&[0.0])];
    with_gradient(&parameters[0], &[3.0, 4.0]);
    with_gradient(&parameters[1], &[12.0]);
    let clipped = clip(&parameters, 6.5).unwrap();
    assert_eq!(floats(&clipped.norm), [13.0]);
    assert_eq!(floats(&clipped.skip), [0.0]);
    let halved: Vec<f32> = parameters.iter().flat_map(|parameter| floats(&parameter.grad())).collect();
    for (found, wanted) in halved.iter().zip([1.5, 2.0, 6.0]) {
        assert!((found - wanted).abs() < 1e-5, "{found} is not {wanted}");
    }
    let unclipped = clip(&parameters, 100.0).unwrap();
    assert!((floats(&unclipped.norm)[0] - 6.5).abs() < 1e-5);
    assert_eq!(halved, parameters.iter().flat_map(|parameter| floats(&parameter.grad())).collect::<Vec<_>>());
}

#[test]
fn dropped_gradients_start_from_zero() {
    let parameter = leaf(&[1.0, 2.0]);
    for _ in 0..2 {
        with_gradient(&parameter, &[1.0, 3.0]);
        assert_eq!(floats(&parameter.grad()), [1.0, 3.0]);
        drop_gradients([&parameter]).unwrap();
        assert!(!parameter.grad().defined());
    }
}

#[test]
fn collected_gradients_are_summed_in_the_dtype_of_those_who_get_them() {
    let (begun, empty) = (leaf(&[1.0, 2.0]), leaf(&[3.0]));
    with_gradient(&begun, &[1000.0, 0.5]);
    let half = |values: &[f32]| Tensor::from_slice(values).to_kind(Dtype::BFloat16).set_requires_grad(true);
    let (a, b) = (half(&[0.0, 0.0]), half(&[0.0]));
    for _ in 0..3 {
        for (tensor, gradient) in [(&a, &[1.0_f32, 0.25][..]), (&b, &[0.125][..])] {
            (tensor * Tensor::from_slice(gradient).to_kind(Dtype::BFloat16)).sum(Dtype::BFloat16).backward();
        }
        collect_gradients([&begun, &empty], [&a, &b]).unwrap();
        assert!(!a.grad().defined() && !b.grad().defined());
    }
    // In bf16 1000 + 1 is 1000.
    assert_eq!(floats(&begun.grad()), [1003.0, 1.25]);
    assert_eq!(floats(&empty.grad()), [0.375]);
    assert_eq!(empty.grad().kind(), Dtype::Float);
    let error = collect_gradients([&begun], [&a]).unwrap_err();
    assert_eq!(error.to_string(), "libtorch failed: parameter 0 has no gradient");
    assert!(collect_gradients([&begun], [&a, &b]).is_err());
}

#[test]
fn a_copy_is_rounded_to_the_nearest_of_its_dtype() {
    let mut to = [Tensor::zeros([3], (Dtype::BFloat16, Device::Cpu)).set_requires_grad(true)];
    // The last bit of bf16 at 1 is 2^-7.
    let from = [Tensor::from_slice(&[1.0_f32 + 0.003, 1.0 + 0.005, -2.0])];
    copy(&mut to, &from).unwrap();
    assert_eq!(floats(&to[0].to_kind(Dtype::Float)), [1.0, 1.007_812_5, -2.0]);
    assert!(copy(&mut to, &[]).is_err());
}

#[test]
fn generator_gives_the_same_numbers_after_its_state_is_put_back() {
    let draw = || floats(&Tensor::randn([64], (Dtype::Float, Device::Cpu)));
    let state = rng_state(Device::Cpu).unwrap();
    assert_eq!(state.kind(), Dtype::Uint8);
    let from_state = || {
        set_rng_state(Device::Cpu, &state).unwrap();
        draw()
    };
    // Tests that load a checkpoint use the same generator meanwhile: one of many pairs is left alone.
    assert!((0..100).any(|_| from_state() == from_state()));
    assert!((0..100).any(|_| from_state() != draw()));
    assert!(set_rng_state(Device::Cpu, &Tensor::from_slice(&[1_u8, 2])).is_err());
}

#[test]
fn guarded_turns_a_libtorch_panic_into_its_first_line() {
    quiet_panics();
    let error = guarded(|| Tensor::from_slice(&[1.0_f32, 2.0]).matmul(&Tensor::from_slice(&[1.0_f32; 3])))
        .unwrap_err();
    let text = error.to_string();
    assert!(text.starts_with("libtorch failed: "), "{text}");
    assert!(
        !text.contains("frame") && !text.contains("\\n") && !text.contains('\n') && !text.contains("Torch("),
        "{text}"
    );
}

#[test]
fn one_thread_hands_results_and_panics_back() {
    quiet_panics();
    let threads: Result<i32> = on_one_thread(1, || Ok(tch::get_num_threads()));
    assert_eq!(threads, Ok(1));
    let lost: Result<()> = on_one_thread(1, || guarded(|| panic!("the text\nand more")));
    assert_eq!(lost, Err(TorchError::Refused("the text".into())));
}

#[test]
fn loaded_library_says_its_version_folder_and_instruction_set() {
    check_version().unwrap();
    assert!(version().unwrap().starts_with("2.11."));
    assert!(folder().unwrap().join("libtorch_cpu.so").exists());
    assert!(!cpu_capability().unwrap().is_empty());
}

#[test]
fn missing_memory_is_told_apart_from_a_defect() {
    let refused = |text: &str| TorchError::Refused(text.into());
    assert_eq!(refused("DefaultCPUAllocator: can't allocate memory: you tried").kind(), Kind::Unavailable);
    assert_eq!(refused("mat1 and mat2 shapes cannot be multiplied").kind(), Kind::Bug);
}
