//! What a program says while it runs: log lines on standard error.

use tracing_subscriber::EnvFilter;

/// How log lines look.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// For a person.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Starts logging at `filter` (`info`, `warn,perennial_ingest=debug`, ...). Later calls change nothing, so that
/// tests may call it freely.
///
/// # Errors
/// The filter's own message where it is none.
pub fn init(filter: &str, format: LogFormat) -> Result<(), String> {
    // The libraries below tell each step of each read at `info`: a word about them must be asked for.
    // What those that write, or look for credentials, log of a failure is in the error that they give,
    // which is told once or mended.
    let quiet = "delta_kernel=warn,buoyant_kernel=warn,deltalake_core=warn,deltalake_core::datafile::writer=off,deltalake_core::kernel::transaction=off,deltalake=warn,object_store=warn,datafusion=warn,aws_config=error";
    let filter = EnvFilter::try_new(format!("{quiet},{filter}"))
        .map_err(|error| format!("log filter `{filter}`: {error}"))?;
    let builder =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    // A subscriber that is already there stays: only the first of a process counts.
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
