//! The safe face of the thin C++ shim over what `tch` leaves out of libtorch.
//!
//! `tch` speaks to most operators and panics where libtorch throws; [`guarded`] is the edge that
//! turns such a panic into an error. libtorch is called from one long-lived thread ([`on_one_thread`]):
//! its thread pools belong to the thread that called first.

mod ffi;

use std::any::Any;
use std::cell::Cell;
use std::ffi::CStr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Once;

use perennial_program::error::{Fault, Kind};
use tch::Tensor;
use torch_sys::C_tensor;

/// The libtorch this program speaks to: any patch of it.
pub const WANTED: &str = "2.11.";

/// What libtorch refused, in its own words: the first line, without its stack.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TorchError {
    /// An operator failed.
    #[error("libtorch refused: {0}")]
    Refused(String),
    /// The library that the loader found is of another version.
    #[error("the loaded libtorch is {found} (in `{folder}`), not {WANTED}*")]
    Version {
        /// Its version.
        found: String,
        /// Where it lies.
        folder: String,
    },
    /// The thread that calls libtorch could not be started.
    #[error("cannot start the thread that calls libtorch: {0}")]
    Thread(String),
}

impl Fault for TorchError {
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
                "set `run.micro_rows` to 1, or to less than it is (0 is all rows): a job may go on with another; \
                 where 1 is too much, begin a job with shorter rows or a smaller model"
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

/// A result of this module.
pub type Result<T> = std::result::Result<T, TorchError>;

thread_local! {
    static GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// Runs `body`; a panic inside it becomes an error with the first line of its text.
///
/// Tensors that `body` was writing may hold anything afterwards: drop them.
///
/// # Errors
/// [`TorchError::Refused`] where `body` panicked.
pub fn guarded<T>(body: impl FnOnce() -> T) -> Result<T> {
    let before = GUARDED.replace(true);
    let done = catch_unwind(AssertUnwindSafe(body));
    GUARDED.set(before);
    done.map_err(|panic| TorchError::Refused(panic_text(panic.as_ref())))
}

/// Keeps panics that [`guarded`] catches off the error output: they are reported as errors.
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
    first_line(text.unwrap_or("a panic without a text"))
}

/// `tch` unwraps its results, so libtorch's text arrives with `Debug` escapes, 20 lines of stack and a frame.
fn first_line(text: &str) -> String {
    let text = text.strip_prefix("called `Result::unwrap()` on an `Err` value: ").unwrap_or(text);
    let text = text.strip_prefix("Torch(\"").unwrap_or(text);
    let text = text.split("\\n").next().unwrap_or(text);
    text.lines().next().unwrap_or_default().trim_end_matches("\")").to_owned()
}

fn check(said: ffi::Said) -> Result<()> {
    if said.is_null() {
        return Ok(());
    }
    // SAFETY: the shim returns null or a NUL-terminated text that lives until this thread's next call into it.
    let text = unsafe { CStr::from_ptr(said) };
    Err(TorchError::Refused(text.to_string_lossy().into_owned()))
}

fn shown(ask: unsafe extern "C" fn(*mut ffi::Said) -> ffi::Said) -> Result<String> {
    let mut text = std::ptr::null();
    // SAFETY: `ask` writes a NUL-terminated text to the place it is given, or returns an error and writes nothing.
    check(unsafe { ask(&raw mut text) })?;
    // SAFETY: as in `check`; the call succeeded, so the text was written.
    Ok(unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned())
}

/// The tensors' addresses as the shim takes them. It changes only what its function says, which the
/// `&mut` of the wrappers (or libtorch's own interior mutability, for gradients) allows.
fn addresses<'a>(tensors: impl IntoIterator<Item = &'a Tensor>) -> Vec<*mut C_tensor> {
    tensors.into_iter().map(|tensor| tensor.as_ptr().cast_mut()).collect()
}

fn taken(pointer: *mut C_tensor) -> Tensor {
    // SAFETY: the shim made it with `new at::Tensor` for us to own; nothing else holds it.
    unsafe { Tensor::from_ptr(pointer) }
}

/// The numbers of one AdamW update.
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
    /// Added to the root of the second moment.
    pub epsilon: f64,
}

/// Parameters with the state of their AdamW, in equal order: `first` and `second` have the parameter's
/// shape, `steps` is one f32 scalar each.
#[derive(Debug, Default)]
pub struct Moments {
    /// The parameters.
    pub parameters: Vec<Tensor>,
    /// First moments m.
    pub first: Vec<Tensor>,
    /// Second moments v.
    pub second: Vec<Tensor>,
    /// Updates made.
    pub steps: Vec<Tensor>,
}

/// One fused AdamW update from the parameters' gradients (Loshchilov and Hutter 2019, algorithm 2).
/// Where the scalar `skip` is 1, nothing changes and no step is counted.
///
/// # Errors
/// [`TorchError::Refused`] where a parameter has no gradient, or lists or dtypes do not agree.
pub fn adamw(moments: &mut Moments, skip: &Tensor, with: AdamW) -> Result<()> {
    let Moments { parameters, first, second, steps } = moments;
    let n = parameters.len();
    if [first.len(), second.len(), steps.len()] != [n; 3] {
        return Err(TorchError::Refused(format!("{n} parameters have state of other number")));
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

/// What [`clip`] measured, still on the device.
#[derive(Debug)]
pub struct Clipped {
    /// The joint 2-norm of all gradients before clipping, a scalar.
    pub norm: Tensor,
    /// 1 where the norm is not finite, else 0: f32 scalar, to be given to [`adamw`].
    pub skip: Tensor,
}

/// Scales the gradients of `parameters` in place so that their joint 2-norm is at most `limit`; a
/// limit of 0 only measures. Nothing is read by the host.
///
/// # Errors
/// [`TorchError::Refused`] where a parameter has no gradient.
pub fn clip<'a>(parameters: impl IntoIterator<Item = &'a Tensor>, limit: f64) -> Result<Clipped> {
    let parameters = addresses(parameters);
    let (mut norm, mut skip) = (std::ptr::null_mut(), std::ptr::null_mut());
    // SAFETY: an array of live tensors; on success both places hold tensors that are ours.
    check(unsafe {
        ffi::perennial_torch_clip(parameters.len(), parameters.as_ptr(), limit, &raw mut norm, &raw mut skip)
    })?;
    Ok(Clipped { norm: taken(norm), skip: taken(skip) })
}

/// `to += weight * (from - to)` for each pair, without a graph.
///
/// # Errors
/// [`TorchError::Refused`] where numbers or shapes do not agree.
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
    Err(TorchError::Refused(format!("{} tensors cannot follow {}", to.len(), from.len())))
}

/// `to = from` for each pair, rounded to the dtype of `to`, without a graph.
///
/// # Errors
/// [`TorchError::Refused`] where numbers or shapes do not agree.
pub fn copy<'a>(to: &mut [Tensor], from: impl IntoIterator<Item = &'a Tensor>) -> Result<()> {
    let (to, from) = pairs(&*to, from)?;
    // SAFETY: two arrays of equally many live tensors; `to` is borrowed mutably.
    check(unsafe { ffi::perennial_torch_copy(to.len(), to.as_ptr(), from.as_ptr()) })
}

/// Adds the gradients of `from` to those of `to` for each pair, in the dtype of `to`, and drops them; a
/// `to` without a gradient gets one. No `to` may come twice.
///
/// # Errors
/// [`TorchError::Refused`] where a `from` has no gradient, or numbers or shapes do not agree.
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
/// [`TorchError::Refused`] where libtorch does.
pub fn drop_gradients<'a>(parameters: impl IntoIterator<Item = &'a Tensor>) -> Result<()> {
    let parameters = addresses(parameters);
    // SAFETY: an array of live tensors; gradients are libtorch's own shared state.
    check(unsafe { ffi::perennial_torch_drop(parameters.len(), parameters.as_ptr()) })
}

fn generator(device: tch::Device) -> Result<i64> {
    match device {
        tch::Device::Cpu => Ok(-1),
        tch::Device::Cuda(index) => Ok(i64::try_from(index).unwrap_or(i64::MAX)),
        other => Err(TorchError::Refused(format!("no generator of device {other:?} is known"))),
    }
}

/// The state of the device's default generator, u8 `[bytes]` on the CPU.
///
/// # Errors
/// [`TorchError::Refused`] where the device is absent.
pub fn rng_state(device: tch::Device) -> Result<Tensor> {
    let mut state = std::ptr::null_mut();
    // SAFETY: on success the place holds a tensor that is ours.
    check(unsafe { ffi::perennial_torch_rng_get(generator(device)?, &raw mut state) })?;
    Ok(taken(state))
}

/// Puts back a state that [`rng_state`] gave.
///
/// # Errors
/// [`TorchError::Refused`] for bytes that are no state of this device's generator.
pub fn set_rng_state(device: tch::Device, state: &Tensor) -> Result<()> {
    // SAFETY: a live tensor, which is only read.
    check(unsafe { ffi::perennial_torch_rng_set(generator(device)?, state.as_ptr()) })
}

/// The version of the loaded libtorch, as `2.11.0`.
///
/// # Errors
/// [`TorchError::Refused`] where it does not say.
pub fn version() -> Result<String> {
    let settings = shown(ffi::perennial_torch_show)?;
    let found = settings.split("TORCH_VERSION=").nth(1).and_then(|rest| rest.split([',', ' ', '\n']).next());
    found.map(str::to_owned).ok_or_else(|| TorchError::Refused("its settings name no TORCH_VERSION".into()))
}

/// The instruction set that libtorch's kernels use on this CPU, as `AVX512`.
///
/// # Errors
/// [`TorchError::Refused`] where it does not say.
pub fn cpu_capability() -> Result<String> {
    shown(ffi::perennial_torch_capability)
}

/// The folder that the loader took `libtorch_cpu` from.
///
/// # Errors
/// [`TorchError::Refused`] where the loader does not say.
pub fn folder() -> Result<PathBuf> {
    shown(ffi::perennial_torch_folder).map(PathBuf::from)
}

/// Loads `libtorch_cuda` from the folder of `libtorch_cpu`. Call it before anything else asks libtorch
/// for CUDA: libtorch looks for it once.
///
/// # Errors
/// [`TorchError::Refused`] with the loader's text, such as a missing library.
pub fn load_cuda() -> Result<()> {
    // SAFETY: loading a library runs its initialisers; it is the same build as the one already loaded.
    check(unsafe { ffi::perennial_torch_load_cuda() })
}

/// The major compute capability of a CUDA device, as 8 of an Ampere. CUDA must be loaded.
///
/// # Errors
/// [`TorchError::Refused`] where the CUDA runtime is not loaded or does not say.
pub fn cuda_capability(device: usize) -> Result<u32> {
    let device = i32::try_from(device).unwrap_or(i32::MAX);
    let mut major = 0;
    // SAFETY: writes one number to the place it is given, or returns an error and writes nothing.
    check(unsafe { ffi::perennial_torch_cuda_capability(device, &raw mut major) })?;
    u32::try_from(major).map_err(|_| TorchError::Refused(format!("compute capability {major} is none")))
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

/// Runs `body` on a new thread that alone calls libtorch, with `threads` of libtorch's own under it,
/// and waits for it.
///
/// # Errors
/// What `body` returns; [`TorchError::Thread`] where no thread could be started,
/// [`TorchError::Refused`] where `body` panicked.
pub fn on_one_thread<T, E>(
    threads: u16,
    body: impl FnOnce() -> std::result::Result<T, E> + Send,
) -> std::result::Result<T, E>
where
    T: Send,
    E: From<TorchError> + Send,
{
    // SAFETY: sets how this process's allocator treats freed memory; it may be called at any time.
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
