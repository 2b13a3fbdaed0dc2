//! Where the model computes, and in which numbers.

use std::fmt;
use std::str::FromStr;

use perennial_program::error::{Fault, Kind};
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::torch::{self, TorchError};

/// The device a user asked for: `cpu`, `cuda`, `cuda:<n>` or `auto`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, JsonSchema)]
#[schemars(with = "String")]
pub enum DeviceChoice {
    /// The first CUDA device where there is one, else the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// This CUDA device, or none.
    Cuda(usize),
}

/// A device that cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// The text names no device.
    #[error("`{0}` is not a device")]
    Name(String),
    /// CUDA cannot be loaded.
    #[error("device `{device}` cannot be used")]
    Load {
        /// What was asked for.
        device: DeviceChoice,
        /// The loader's text.
        #[source]
        source: TorchError,
    },
    /// CUDA is there, the device is not.
    #[error("device `{device}` cannot be used: this machine has {count} CUDA devices")]
    Absent {
        /// What was asked for.
        device: DeviceChoice,
        /// How many there are.
        count: i64,
    },
}

impl Fault for DeviceError {
    fn kind(&self) -> Kind {
        Kind::Config
    }
    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Name(_) => "use `auto`, `cpu`, `cuda` or `cuda:<n>`".into(),
            Self::Load { .. } => {
                "set `run.device` to `cpu`, or point LD_LIBRARY_PATH at the `lib` folder of a libtorch with CUDA"
                    .into()
            }
            Self::Absent { .. } => "set `run.device` to `cpu`, or to a smaller number".into(),
        })
    }
}

impl FromStr for DeviceChoice {
    type Err = DeviceError;
    fn from_str(text: &str) -> Result<Self, DeviceError> {
        let number = |digits: &str| digits.parse().map_err(|_| DeviceError::Name(text.to_owned()));
        match text {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda(0)),
            _ => text
                .strip_prefix("cuda:")
                .map_or_else(|| Err(DeviceError::Name(text.to_owned())), number)
                .map(Self::Cuda),
        }
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(index) => write!(f, "cuda:{index}"),
        }
    }
}

impl Serialize for DeviceChoice {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for DeviceChoice {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(|error: DeviceError| {
            let hint = error.hint().unwrap_or_default();
            serde::de::Error::custom(format!("{error}: {hint}"))
        })
    }
}

/// The numbers that a forward and backward pass computes in. Weights that learn, moments and averages are f32
/// whatever it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// IEEE single precision.
    #[default]
    F32,
    /// bfloat16: the range of f32 and 8 bits of precision. Weights and activations are rounded to it;
    /// sums, norms, softmax and loss are f32.
    Bf16,
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
        })
    }
}

/// The precision a user asked for: `auto`, `f32` or `bf16`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum PrecisionChoice {
    /// The one that the job began with; for a new job bf16 where the device computes it natively, else f32.
    #[default]
    Auto,
    /// f32.
    F32,
    /// bf16.
    Bf16,
}

impl PrecisionChoice {
    /// What it comes to for a job that began in `begun`.
    #[must_use]
    pub const fn of_job(self, begun: Precision) -> Precision {
        match self {
            Self::Auto => begun,
            Self::F32 => Precision::F32,
            Self::Bf16 => Precision::Bf16,
        }
    }
}

/// The precision that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// What the job computes in.
    pub precision: Precision,
    /// Why, for whoever watches.
    pub why: String,
}

/// The precision of a job on `device` (see [`choose`]) that `begun` with this one, or is new.
#[must_use]
pub fn precision(choice: PrecisionChoice, device: tch::Device, begun: Option<Precision>) -> Resolved {
    let asked = |precision| Resolved { precision, why: "it was asked for".into() };
    match choice {
        PrecisionChoice::F32 => asked(Precision::F32),
        PrecisionChoice::Bf16 => asked(Precision::Bf16),
        PrecisionChoice::Auto => automatic(native(device), begun),
    }
}

/// What `auto` means where a new job would compute in `native`: a job that goes on never changes its numbers.
fn automatic(native: Resolved, begun: Option<Precision>) -> Resolved {
    match begun {
        None => native,
        Some(precision) if precision == native.precision => {
            Resolved { precision, why: "the job began in it".into() }
        }
        Some(precision) => Resolved {
            precision,
            why: format!(
                "the job began in it; a new one here would take {}: {}",
                native.precision, native.why
            ),
        },
    }
}

/// bf16 where this device computes it in its own instructions, else f32.
fn native(device: tch::Device) -> Resolved {
    let found = |native: bool, why: String| Resolved {
        precision: if native { Precision::Bf16 } else { Precision::F32 },
        why,
    };
    match device {
        tch::Device::Cpu if cpu_has_bf16() => found(true, "this CPU has avx512_bf16".into()),
        tch::Device::Cpu => found(false, "this CPU has no instructions for bf16".into()),
        tch::Device::Cuda(index) => match torch::cuda_capability(index) {
            Ok(major) => found(major >= 8, format!("the device has compute capability {major}")),
            Err(error) => found(false, error.to_string()),
        },
        other => found(false, format!("nothing is known of bf16 on {other:?}")),
    }
}

/// Whether it has avx512_bf16, as every CPU with the tiles of AMX has.
#[cfg(target_arch = "x86_64")]
fn cpu_has_bf16() -> bool {
    std::arch::is_x86_feature_detected!("avx512bf16")
}

#[cfg(not(target_arch = "x86_64"))]
const fn cpu_has_bf16() -> bool {
    false
}

/// The device that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chosen {
    /// Where tensors are made.
    pub device: tch::Device,
    /// Why `auto` did not take CUDA, in the loader's words.
    pub why_not_cuda: Option<String>,
}

/// Finds the device. Must be the first thing that asks libtorch for CUDA.
///
/// # Errors
/// [`DeviceError`] where a CUDA device was asked for by name and cannot be had; `auto` never fails.
pub fn choose(choice: DeviceChoice) -> Result<Chosen, DeviceError> {
    let cpu = |why| Chosen { device: tch::Device::Cpu, why_not_cuda: why };
    match choice {
        DeviceChoice::Cpu => Ok(cpu(None)),
        DeviceChoice::Auto => Ok(match count() {
            Ok(0) => cpu(Some("this machine has no CUDA device".into())),
            Ok(_) => Chosen { device: tch::Device::Cuda(0), why_not_cuda: None },
            Err(TorchError::Refused(text)) => cpu(Some(text)),
            Err(error) => cpu(Some(error.to_string())),
        }),
        DeviceChoice::Cuda(index) => {
            let count = count().map_err(|source| DeviceError::Load { device: choice, source })?;
            if i64::try_from(index).is_ok_and(|index| index < count) {
                Ok(Chosen { device: tch::Device::Cuda(index), why_not_cuda: None })
            } else {
                Err(DeviceError::Absent { device: choice, count })
            }
        }
    }
}

fn count() -> Result<i64, TorchError> {
    torch::load_cuda()?;
    torch::guarded(tch::Cuda::device_count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_names_survive_text() {
        for choice in [DeviceChoice::Auto, DeviceChoice::Cpu, DeviceChoice::Cuda(0), DeviceChoice::Cuda(7)] {
            assert_eq!(choice.to_string().parse::<DeviceChoice>().unwrap(), choice);
        }
        assert_eq!("cuda".parse::<DeviceChoice>().unwrap(), DeviceChoice::Cuda(0));
        for text in ["", "gpu", "cuda:", "cuda:x", "cuda:-1", "CPU"] {
            assert!(text.parse::<DeviceChoice>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_precision_that_was_asked_for_is_taken_whatever_the_job_began_in() {
        for begun in [None, Some(Precision::F32), Some(Precision::Bf16)] {
            let of = |choice| precision(choice, tch::Device::Cpu, begun).precision;
            assert_eq!(of(PrecisionChoice::F32), Precision::F32);
            assert_eq!(of(PrecisionChoice::Bf16), Precision::Bf16);
            if let Some(begun) = begun {
                for choice in [PrecisionChoice::Auto, PrecisionChoice::F32, PrecisionChoice::Bf16] {
                    assert_eq!(choice.of_job(begun), of(choice));
                }
            }
        }
    }

    #[test]
    fn auto_takes_what_the_job_began_in_and_says_what_it_would_have_taken() {
        let native = |precision| Resolved { precision, why: "the reason".into() };
        for found in [Precision::F32, Precision::Bf16] {
            assert_eq!(automatic(native(found), None), native(found));
            for begun in [Precision::F32, Precision::Bf16] {
                let kept = automatic(native(found), Some(begun));
                assert_eq!(kept.precision, begun);
                assert_eq!(kept.why.contains("the reason"), begun != found, "{}", kept.why);
            }
        }
    }

    #[test]
    fn auto_on_a_cpu_follows_what_the_system_says_of_it() {
        let found = precision(PrecisionChoice::Auto, tch::Device::Cpu, None);
        assert!(found.why.contains("CPU"), "{}", found.why);
        if let Ok(said) = std::fs::read_to_string("/proc/cpuinfo") {
            let has = said.split_whitespace().any(|flag| flag == "avx512_bf16");
            assert_eq!(found.precision, if has { Precision::Bf16 } else { Precision::F32 });
        }
    }

    #[test]
    fn cpu_can_always_be_had() {
        assert_eq!(
            choose(DeviceChoice::Cpu).unwrap(),
            Chosen { device: tch::Device::Cpu, why_not_cuda: None }
        );
    }

    #[test]
    fn a_device_that_is_not_there_is_refused_with_the_reason() {
        let error = choose(DeviceChoice::Cuda(4_000)).unwrap_err();
        assert_eq!(error.kind(), Kind::Config);
        assert!(error.to_string().contains("`cuda:4000`"), "{error}");
    }
}
