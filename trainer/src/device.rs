//! The device and the number format of a job's computations.

use std::fmt;
use std::str::FromStr;

use perennial_program::error::{Kind, ProgramError};
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::torch::{self, TorchError};

/// The device a user asked for: `cpu`, `cuda`, `cuda:<n>` or `auto`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, JsonSchema)]
#[schemars(with = "String")]
pub enum DeviceChoice {
    /// The first CUDA device if there is one, else the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// This CUDA device.
    Cuda(usize),
}

/// A device that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// The text is not a device.
    #[error("`{0}` is not a device")]
    Name(String),
    /// CUDA cannot be loaded.
    #[error("device `{device}` cannot be used")]
    Load {
        /// The requested device.
        device: DeviceChoice,
        /// The loader's error.
        #[source]
        source: TorchError,
    },
    /// CUDA works, but the machine does not have this device.
    #[error("device `{device}` cannot be used: this machine has {count} CUDA devices")]
    Absent {
        /// The requested device.
        device: DeviceChoice,
        /// Number of CUDA devices.
        count: i64,
    },
}

impl ProgramError for DeviceError {
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

/// The number format of the forward and backward pass. Master weights, moments and averages are always f32.
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
    /// The precision that the job started with; for a new job bf16 if the device supports it natively, else
    /// f32.
    #[default]
    Auto,
    /// f32.
    F32,
    /// bf16.
    Bf16,
}

impl PrecisionChoice {
    /// The precision of a job that started with `begun`.
    #[must_use]
    pub const fn of_job(self, begun: Precision) -> Precision {
        match self {
            Self::Auto => begun,
            Self::F32 => Precision::F32,
            Self::Bf16 => Precision::Bf16,
        }
    }
}

/// A precision with the reason for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// The precision.
    pub precision: Precision,
    /// The reason, for the log.
    pub why: String,
}

/// The precision of a job on `device` (see [`choose`]); `begun` is that of a job that already started.
#[must_use]
pub fn precision(choice: PrecisionChoice, device: tch::Device, begun: Option<Precision>) -> Resolved {
    let asked = |precision| Resolved { precision, why: "configured".into() };
    match choice {
        PrecisionChoice::F32 => asked(Precision::F32),
        PrecisionChoice::Bf16 => asked(Precision::Bf16),
        PrecisionChoice::Auto => automatic(native(device), begun),
    }
}

/// The meaning of `auto` if a new job would compute in `native`: a resumed job keeps its precision.
fn automatic(native: Resolved, begun: Option<Precision>) -> Resolved {
    match begun {
        None => native,
        Some(precision) if precision == native.precision => {
            Resolved { precision, why: "the job started with it".into() }
        }
        Some(precision) => Resolved {
            precision,
            why: format!(
                "the job started with it; a new one here would take {}: {}",
                native.precision, native.why
            ),
        },
    }
}

/// bf16 if this device has instructions for it, else f32.
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
        other => found(false, format!("bf16 on {other:?} is not supported")),
    }
}

/// Whether the CPU has avx512_bf16, as every CPU with AMX does.
#[cfg(target_arch = "x86_64")]
fn cpu_has_bf16() -> bool {
    std::arch::is_x86_feature_detected!("avx512bf16")
}

#[cfg(not(target_arch = "x86_64"))]
const fn cpu_has_bf16() -> bool {
    false
}

/// The chosen device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chosen {
    /// The device of the tensors.
    pub device: tch::Device,
    /// Why `auto` did not choose CUDA.
    pub why_not_cuda: Option<String>,
}

/// Chooses the device. Must run before anything else asks libtorch for CUDA.
///
/// # Errors
/// [`DeviceError`] if an explicitly requested CUDA device cannot be used; `auto` never fails.
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
    fn a_configured_precision_is_used_whatever_the_job_started_with() {
        for begun in [None, Some(Precision::F32), Some(Precision::Bf16)] {
            let resolved = |choice| precision(choice, tch::Device::Cpu, begun).precision;
            assert_eq!(resolved(PrecisionChoice::F32), Precision::F32);
            assert_eq!(resolved(PrecisionChoice::Bf16), Precision::Bf16);
            if let Some(begun) = begun {
                for choice in [PrecisionChoice::Auto, PrecisionChoice::F32, PrecisionChoice::Bf16] {
                    assert_eq!(choice.of_job(begun), resolved(choice));
                }
            }
        }
    }

    #[test]
    fn auto_keeps_the_precision_of_a_started_job_and_says_what_a_new_one_would_take() {
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
    fn auto_on_a_cpu_follows_its_flags() {
        let found = precision(PrecisionChoice::Auto, tch::Device::Cpu, None);
        assert!(found.why.contains("CPU"), "{}", found.why);
        if let Ok(cpuinfo) = std::fs::read_to_string("/proc/cpuinfo") {
            let has = cpuinfo.split_whitespace().any(|flag| flag == "avx512_bf16");
            assert_eq!(found.precision, if has { Precision::Bf16 } else { Precision::F32 });
        }
    }

    #[test]
    fn cpu_is_always_available() {
        assert_eq!(
            choose(DeviceChoice::Cpu).unwrap(),
            Chosen { device: tch::Device::Cpu, why_not_cuda: None }
        );
    }

    #[test]
    fn an_absent_device_is_refused_with_the_reason() {
        let error = choose(DeviceChoice::Cuda(4_000)).unwrap_err();
        assert_eq!(error.kind(), Kind::Config);
        assert!(error.to_string().contains("`cuda:4000`"), "{error}");
    }
}
