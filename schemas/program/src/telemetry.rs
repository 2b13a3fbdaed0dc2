//! Logging: lines on standard error.

use tracing_subscriber::EnvFilter;

/// The format of log lines.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// Text for people.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// Starts logging at `filter` (`info`, `warn,perennial_ingest=debug`, ...). Later calls have no effect, so
/// that tests may call it freely.
///
/// # Errors
/// The parser's message if the filter is invalid.
pub fn init(filter: &str, format: LogFormat) -> Result<(), String> {
    // The libraries log each step of each read at `info`. Those that write, or that find credentials, also
    // log failures that they return as errors, which are printed once or retried.
    let quiet = "delta_kernel=warn,buoyant_kernel=warn,deltalake_core=warn,deltalake_core::datafile::writer=off,deltalake_core::kernel::transaction=off,deltalake=warn,object_store=warn,datafusion=warn,aws_config=error";
    let filter = EnvFilter::try_new(format!("{quiet},{filter}"))
        .map_err(|error| format!("log filter `{filter}`: {error}"))?;
    let builder =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    // The first subscriber of a process stays.
    let _ = match format {
        LogFormat::Text => builder.with_ansi(false).compact().try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn init_refuses_a_filter_that_is_none_and_may_be_called_twice() {
        assert!(init("ingest=loud", LogFormat::Text).is_err());
        assert!(init("warn", LogFormat::Json).is_ok());
        assert!(init("warn", LogFormat::Text).is_ok());
    }
}
