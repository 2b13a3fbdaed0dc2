//! The safe interface of a thin C++ shim over those parts of libtorch that `tch` does not expose.
//!
//! `tch` binds most operators and panics if libtorch throws; [`guarded`] turns such a panic into an error.
//! One long-lived thread calls libtorch ([`on_one_thread`]): its thread pools belong to the first calling
//! thread.

mod ffi;

use std::any::Any;
use std::cell::Cell;
use std::ffi::CStr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Once;

use perennial_program::error::{Kind, ProgramError};
use tch::Tensor;
use torch_sys::C_tensor;

/// The required version of libtorch, with any patch level.
pub const WANTED: &str = "2.11.";

/// An error of libtorch: the first line of its message, without the stack trace.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TorchError {
    /// An operator failed.
    #[error("libtorch failed: {0}")]
    Refused(String),
    /// The loaded library has another version.
    #[error("the loaded libtorch is {found} (in `{folder}`), not {WANTED}*")]
    Version {
        /// Its version.
        found: String,
        /// Its folder.
        folder: String,
    },
    /// The thread that calls libtorch could not be started.
    #[error("cannot start the thread that calls libtorch: {0}")]
    Thread(String),
}

impl ProgramError for TorchError {
    fn kind(&self) -> Kind {
        match self {
            Self::Refused(text) if is_memory(text) => Kind::Unavailable,
            Self::Refused(_) => Kind::Bug,
            Self::Version { .. } => Kind::Config,
            Self::Thread(_) => Kind::Unavailable,
        }
    }
    fn hint(&self) -> Option<String> {
        match self {
            Self::Refused(text) if is_memory(text) => Some(
                "lower `run.micro_rows` (0 means all rows), down to 1; a job may resume with another value. If 1 is \
                 too much, start a job with shorter rows or a smaller model"
                    .into(),
            ),
            Self::Version { .. } => Some(format!(
                "point LD_LIBRARY_PATH at the `lib` folder of a libtorch {WANTED}*, or unset it"
            )),
            _ => None,
        }
    }
}

fn is_memory(text: &str) -> bool {
    ["out of memory", "can't allocate memory", "not enough memory"].iter().any(|words| text.contains(words))
}

/// The result type of this module.
pub type Result<T> = std::result::Result<T, TorchError>;

thread_local! {
    static GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// Runs `body`; a panic inside it becomes an error with the first line of its text.
///
/// After an error, tensors that `body` was writing have undefined content: drop them.
///
/// # Errors
/// [`TorchError::Refused`] if `body` panicked.
pub fn guarded<T>(body: impl FnOnce() -> T) -> Result<T> {
    let before = GUARDED.replace(true);
    let done = catch_unwind(AssertUnwindSafe(body));
    GUARDED.set(before);
    done.map_err(|panic| TorchError::Refused(panic_text(panic.as_ref())))
}

/// Silences panics that [`guarded`] catches: they are reported as errors.
pub fn quiet_panics() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        let loud = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if !GUARDED.get() {
                loud(panic);
            }
        }));
    });
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text =
        panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    first_line(text.unwrap_or("a panic without a message"))
}

/// `tch` unwraps its results, so libtorch's message arrives with `Debug` escapes and a stack trace.
fn first_line(text: &str) -> String {
    let text = text.strip_prefix("called `Result::unwrap()` on an `Err` value: ").unwrap_or(text);
    let text = text.strip_prefix("Torch(\"").unwrap_or(text);
    let text = text.split("\\n").next().unwrap_or(text);
    text.lines().next().unwrap_or_default().trim_end_matches("\")").to_owned()
}

fn check(message: ffi::Message) -> Result<()> {
    if message.is_null() {
        return Ok(());
    }
    // SAFETY: the shim returns null or a NUL-terminated text that lives until this thread's next call into
    // it.
    let text = unsafe { CStr::from_ptr(message) };
    Err(TorchError::Refused(text.to_string_lossy().into_owned()))
}

fn text_of(call: unsafe extern "C" fn(*mut ffi::Message) -> ffi::Message) -> Result<String> {
    let mut text = std::ptr::null();
    // SAFETY: `call` writes a pointer to a NUL-terminated text, or returns an error and writes nothing.
    check(unsafe { call(&raw mut text) })?;
    // SAFETY: as in `check`; the call succeeded, so the text was written.
    Ok(unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned())
}

/// The tensors' addresses for the shim. It writes only what each function documents, which the wrapper's
/// `&mut` (or, for gradients, libtorch's interior mutability) allows.
fn addresses<'a>(tensors: impl IntoIterator<Item = &'a Tensor>) -> Vec<*mut C_tensor> {
    tensors.into_iter().map(|tensor| tensor.as_ptr().cast_mut()).collect()
}

fn owned(pointer: *mut C_tensor) -> Tensor {
    // SAFETY: the shim made it with `new at::Tensor` and passes ownership; nothing else holds it.
    unsafe { Tensor::from_ptr(pointer) }
}

/// The hyperparameters of one AdamW update.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamW {
    /// Learning rate.
    pub learning_rate: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Decoupled weight decay: a parameter loses `learning_rate * decay` of itself per step.
    pub decay: f64,
    /// Added to the square root of the second moment.
    pub epsilon: f64,
}

/// Parameters with their AdamW state, in the same order: `first` and `second` have the parameter's shape,
/// `steps` is one f32 scalar each.
#[derive(Debug, Default)]
pub struct Moments {
    /// The parameters.
    pub parameters: Vec<Tensor>,
    /// First moments m.
    pub first: Vec<Tensor>,
    /// Second moments v.
    pub second: Vec<Tensor>,
    /// Number of updates.
    pub steps: Vec<Tensor>,
}

/// One fused AdamW update from the parameters' gradients (Loshchilov and Hutter 2019, algorithm 2).
/// If the scalar `skip` is 1, nothing changes and no step is counted.
///
/// # Errors
/// [`TorchError::Refused`] if a parameter has no gradient, or lengths or dtypes do not match.
pub fn adamw(moments: &mut Moments, skip: &Tensor, with: AdamW) -> Result<()> {
    let Moments { parameters, first, second, steps } = moments;
    let n = parameters.len();
    if [first.len(), second.len(), steps.len()] != [n; 3] {
        return Err(TorchError::Refused(format!("the optimiser state of {n} parameters has another length")));
    }
    let [parameters, first, second, steps] = [&*parameters, &*first, &*second, &*steps].map(addresses);
    // SAFETY: four arrays of `n` live tensors each, held by the `&mut` borrow for the length of the call.
    check(unsafe {
        ffi::perennial_torch_adamw(
            n,
            parameters.as_ptr(),
            first.as_ptr(),
            second.as_ptr(),
            steps.as_ptr(),
            skip.as_ptr(),
            with.learning_rate,
            with.beta1,
            with.beta2,
            with.decay,
            with.epsilon,
        )
    })
}

/// The result of [`clip`], on the device.
#[derive(Debug)]
pub struct Clipped {
    /// The joint 2-norm of all gradients before clipping, a scalar.
    pub norm: Tensor,
    /// 1 if the norm is not finite, else 0: an f32 scalar for [`adamw`].
    pub skip: Tensor,
}

/// Scales the gradients of `parameters` in place so that their joint 2-norm is at most `limit`; a limit of 0
/// only measures. The host reads nothing.
///
/// # Errors
/// [`TorchError::Refused`] if a parameter has no gradient.
pub fn clip<'a>(parameters: impl IntoIterator<Item = &'a Tensor>, limit: f64) -> Result<Clipped> {
    let parameters = addresses(parameters);
    let (mut norm, mut skip) = (std::ptr::null_mut(), std::ptr::null_mut());
    // SAFETY: an array of live tensors; on success both pointers are tensors that we own.
    check(unsafe {
        ffi::perennial_torch_clip(parameters.len(), parameters.as_ptr(), limit, &raw mut norm, &raw mut skip)
    })?;
    Ok(Clipped { norm: owned(norm), skip: owned(skip) })
}

/// `to += weight * (from - to)` for each pair, without a graph.
///
/// # Errors
/// [`TorchError::Refused`] if lengths or shapes do not match.
pub fn lerp<'a>(to: &mut [Tensor], from: impl IntoIterator<Item = &'a Tensor>, weight: f64) -> Result<()> {
    let (to, from) = pairs(&*to, from)?;
    // SAFETY: two arrays of equally many live tensors; `to` is borrowed mutably.
    check(unsafe { ffi::perennial_torch_lerp(to.len(), to.as_ptr(), from.as_ptr(), weight) })
}

/// The addresses of equally many tensors on both sides.
fn pairs<'a, 'b>(
    to: impl IntoIterator<Item = &'a Tensor>,
    from: impl IntoIterator<Item = &'b Tensor>,
) -> Result<(Vec<*mut C_tensor>, Vec<*mut C_tensor>)> {
    let (to, from) = (addresses(to), addresses(from));
    if to.len() == from.len() {
        return Ok((to, from));
    }
    Err(TorchError::Refused(format!("{} target tensors do not match {} sources", to.len(), from.len())))
}

/// `to = from` for each pair, rounded to the dtype of `to`, without a graph.
///
/// # Errors
/// [`TorchError::Refused`] if lengths or shapes do not match.
pub fn copy<'a>(to: &mut [Tensor], from: impl IntoIterator<Item = &'a Tensor>) -> Result<()> {
    let (to, from) = pairs(&*to, from)?;
    // SAFETY: two arrays of equally many live tensors; `to` is borrowed mutably.
    check(unsafe { ffi::perennial_torch_copy(to.len(), to.as_ptr(), from.as_ptr()) })
}

/// Adds the gradients of `from` to those of `to` for each pair, in the dtype of `to`, and drops them; a `to`
/// without a gradient gets one. Each `to` must occur once.
///
/// # Errors
/// [`TorchError::Refused`] if a `from` has no gradient, or lengths or shapes do not match.
pub fn collect_gradients<'a, 'b>(
    to: impl IntoIterator<Item = &'a Tensor>,
    from: impl IntoIterator<Item = &'b Tensor>,
) -> Result<()> {
    let (to, from) = pairs(to, from)?;
    // SAFETY: two arrays of equally many live tensors; gradients are libtorch's own shared state.
    check(unsafe { ffi::perennial_torch_collect(to.len(), to.as_ptr(), from.as_ptr()) })
}

/// Drops the gradients of `parameters`, so that the next backward pass makes new ones.
///
/// # Errors
/// [`TorchError::Refused`] if libtorch fails.
pub fn drop_gradients<'a>(parameters: impl IntoIterator<Item = &'a Tensor>) -> Result<()> {
    let parameters = addresses(parameters);
    // SAFETY: an array of live tensors; gradients are libtorch's own shared state.
    check(unsafe { ffi::perennial_torch_drop(parameters.len(), parameters.as_ptr()) })
}

fn generator(device: tch::Device) -> Result<i64> {
    match device {
        tch::Device::Cpu => Ok(-1),
        tch::Device::Cuda(index) => Ok(i64::try_from(index).unwrap_or(i64::MAX)),
        other => Err(TorchError::Refused(format!("device {other:?} has no known random number generator"))),
    }
}

/// The state of the device's default generator, u8 `[bytes]` on the CPU.
///
/// # Errors
/// [`TorchError::Refused`] if the device is absent.
pub fn rng_state(device: tch::Device) -> Result<Tensor> {
    let mut state = std::ptr::null_mut();
    // SAFETY: on success `state` points to a tensor that we own.
    check(unsafe { ffi::perennial_torch_rng_get(generator(device)?, &raw mut state) })?;
    Ok(owned(state))
}

/// Restores a state from [`rng_state`].
///
/// # Errors
/// [`TorchError::Refused`] if the bytes are not a state of this device's generator.
pub fn set_rng_state(device: tch::Device, state: &Tensor) -> Result<()> {
    // SAFETY: a live tensor, which is only read.
    check(unsafe { ffi::perennial_torch_rng_set(generator(device)?, state.as_ptr()) })
}

/// The version of the loaded libtorch, as `2.11.0`.
///
/// # Errors
/// [`TorchError::Refused`] if libtorch does not report it.
pub fn version() -> Result<String> {
    let settings = text_of(ffi::perennial_torch_show)?;
    let found = settings.split("TORCH_VERSION=").nth(1).and_then(|rest| rest.split([',', ' ', '\n']).next());
    found.map(str::to_owned).ok_or_else(|| TorchError::Refused("its settings name no TORCH_VERSION".into()))
}

/// The instruction set that libtorch's kernels use on this CPU, as `AVX512`.
///
/// # Errors
/// [`TorchError::Refused`] if libtorch does not report it.
pub fn cpu_capability() -> Result<String> {
    text_of(ffi::perennial_torch_capability)
}

/// The folder of the loaded `libtorch_cpu`.
///
/// # Errors
/// [`TorchError::Refused`] if the loader does not report it.
pub fn folder() -> Result<PathBuf> {
    text_of(ffi::perennial_torch_folder).map(PathBuf::from)
}

/// Loads `libtorch_cuda` from the folder of `libtorch_cpu`. Call it before anything else asks libtorch for
/// CUDA: libtorch looks for CUDA only once.
///
/// # Errors
/// [`TorchError::Refused`] with the loader's message, such as a missing library.
pub fn load_cuda() -> Result<()> {
    // SAFETY: loading a library runs its initialisers; it is the same build as the one already loaded.
    check(unsafe { ffi::perennial_torch_load_cuda() })
}

/// The major compute capability of a CUDA device, such as 8 for Ampere. CUDA must be loaded.
///
/// # Errors
/// [`TorchError::Refused`] if the CUDA runtime is not loaded or does not report it.
pub fn cuda_capability(device: usize) -> Result<u32> {
    let device = i32::try_from(device).unwrap_or(i32::MAX);
    let mut major = 0;
    // SAFETY: writes one number through the pointer, or returns an error and writes nothing.
    check(unsafe { ffi::perennial_torch_cuda_capability(device, &raw mut major) })?;
    u32::try_from(major).map_err(|_| TorchError::Refused(format!("compute capability {major} is invalid")))
}

/// Refuses a loaded libtorch that is not [`WANTED`].
///
/// # Errors
/// [`TorchError::Version`] with what was found and where.
pub fn check_version() -> Result<()> {
    let found = version()?;
    if found.starts_with(WANTED) {
        return Ok(());
    }
    Err(TorchError::Version { found, folder: folder()?.display().to_string() })
}

/// Runs `body` on a new thread, the only one that calls libtorch, and waits for it. `threads` is the size of
/// libtorch's own thread pool.
///
/// # Errors
/// The error of `body`; [`TorchError::Thread`] if no thread can be started, [`TorchError::Refused`] if `body`
/// panicked.
pub fn on_one_thread<T, E>(
    threads: u16,
    body: impl FnOnce() -> std::result::Result<T, E> + Send,
) -> std::result::Result<T, E>
where
    T: Send,
    E: From<TorchError> + Send,
{
    // SAFETY: configures how this process's allocator treats freed memory; it may be called at any time.
    unsafe { ffi::perennial_torch_keep_memory() };
    std::thread::scope(|scope| {
        let work = move || {
            guarded(|| tch::set_num_threads(i32::from(threads.max(1))))?;
            body()
        };
        let running = std::thread::Builder::new()
            .name("libtorch".into())
            .spawn_scoped(scope, work)
            .map_err(|error| TorchError::Thread(error.to_string()))?;
        running.join().unwrap_or_else(|panic| Err(TorchError::Refused(panic_text(panic.as_ref())).into()))
    })
}

#[cfg(test)]
mod tests;
