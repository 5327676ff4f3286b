//! What each server costs, side by side.

mod load;
mod points;
mod subjects;

/// Arguments of `lab bench`.
#[derive(clap::Args)]
pub struct Bench {}

impl Bench {
    /// Measures.
    #[expect(clippy::unused_self, clippy::unnecessary_wraps, reason = "being written")]
    pub fn run(self) -> anyhow::Result<()> {
        Ok(())
    }
}
