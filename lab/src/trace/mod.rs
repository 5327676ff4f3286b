//! What a server does, drawn from a trace of its system calls.

/// Arguments of `lab trace`.
#[derive(clap::Args)]
pub struct Trace {}

impl Trace {
    /// Draws.
    #[expect(clippy::unused_self, clippy::unnecessary_wraps, reason = "being written")]
    pub fn run(self) -> anyhow::Result<()> {
        Ok(())
    }
}
