//! The C interface of `shim.cpp`.

use std::ffi::c_char;

use torch_sys::C_tensor;

/// Null, or the first line of an error; valid until the next call in this thread.
pub type Message = *const c_char;

unsafe extern "C" {
    pub fn perennial_torch_adamw(
        n: usize,
        parameters: *const *mut C_tensor,
        first: *const *mut C_tensor,
        second: *const *mut C_tensor,
        steps: *const *mut C_tensor,
        skip: *const C_tensor,
        learning_rate: f64,
        beta1: f64,
        beta2: f64,
        decay: f64,
        epsilon: f64,
    ) -> Message;
    pub fn perennial_torch_clip(
        n: usize,
        parameters: *const *mut C_tensor,
        limit: f64,
        norm: *mut *mut C_tensor,
        skip: *mut *mut C_tensor,
    ) -> Message;
    pub fn perennial_torch_lerp(
        n: usize,
        to: *const *mut C_tensor,
        from: *const *mut C_tensor,
        weight: f64,
    ) -> Message;
    pub fn perennial_torch_copy(n: usize, to: *const *mut C_tensor, from: *const *mut C_tensor) -> Message;
    pub fn perennial_torch_collect(n: usize, to: *const *mut C_tensor, from: *const *mut C_tensor)
    -> Message;
    pub fn perennial_torch_drop(n: usize, parameters: *const *mut C_tensor) -> Message;
    pub fn perennial_torch_rng_get(cuda: i64, state: *mut *mut C_tensor) -> Message;
    pub fn perennial_torch_rng_set(cuda: i64, state: *const C_tensor) -> Message;
    pub fn perennial_torch_show(shown: *mut Message) -> Message;
    pub fn perennial_torch_capability(shown: *mut Message) -> Message;
    pub fn perennial_torch_folder(shown: *mut Message) -> Message;
    pub fn perennial_torch_load_cuda() -> Message;
    pub fn perennial_torch_cuda_capability(device: i32, major: *mut i32) -> Message;
    pub fn perennial_torch_keep_memory();
}
